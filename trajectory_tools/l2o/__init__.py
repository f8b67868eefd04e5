"""The learned optimizer (L2O): its network, its meta-training, its regularizers, its weights; needs torch."""
