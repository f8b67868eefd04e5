/* One pass over the values of many tensors, in which they are subtracted, divided, copied and measured.

   What is done to a row happens while it is in the first cache: a network's values come out of memory once. one_pass.py
   says what it is for, and does the same in NumPy where this could not be compiled. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define ROW 1024 /* values; their squares are summed in the values' own precision */
#define LANES 16 /* sums, extrema and counts side by side, which a compiler makes vectors of */
#define TINY 1e-12 /* where no float32 is larger, squares lose digits or vanish */
#define SMALL 32768 /* fewer values are not worth letting go of the interpreter's lock */

enum { AS_IT_IS, MINUS, DIVIDED };
enum { SQUARES, MIN, MAX, ZEROS, NONFINITE, N_NUMBERS }; /* as in store/stats_rows.py */
enum { TENSOR, OFFSET, LENGTH, PLACE, N_FIELDS };        /* of a piece, as in one_pass.py */

#define VALUE float
#define NAME(x) float_##x
#include "one_pass_values.h"

#define VALUE double
#define NAME(x) double_##x
#include "one_pass_values.h"

static int get_buffer(PyObject *object, Py_buffer *buffer, int flags)
{
    buffer->buf = NULL;
    buffer->len = 0;
    return object == Py_None ? 0 : PyObject_GetBuffer(object, buffer, flags);
}

/* Whether the pieces lie within what was given; an exception is set where not. */
static int fit(const int64_t *pieces, Py_ssize_t n_pieces, Py_ssize_t first, Py_ssize_t last, Py_ssize_t n_tensors,
               const Py_buffer *minus, const Py_buffer *into, const Py_buffer *numbers, Py_ssize_t width)
{
    int good = first >= 0 && first <= last && last <= n_pieces;
    if (good && numbers->buf)
        good = numbers->len >= last * N_NUMBERS * (Py_ssize_t)sizeof(double);
    for (Py_ssize_t k = first; good && k < last; k++) {
        const int64_t *piece = pieces + k * N_FIELDS;
        Py_ssize_t end = (Py_ssize_t)(piece[PLACE] + piece[LENGTH]) * width;
        good = piece[TENSOR] >= 0 && piece[TENSOR] < n_tensors && piece[LENGTH] >= 0 && piece[OFFSET] >= 0 &&
               piece[PLACE] >= 0 && (!minus->buf || minus->len >= end) && (!into->buf || into->len >= end);
    }
    if (!good)
        PyErr_SetString(PyExc_ValueError, "the pieces do not fit the tensors and arrays");
    return good;
}

static void take_pieces(void *const *tensors, const int64_t *pieces, Py_ssize_t first, Py_ssize_t last,
                        Py_ssize_t width, void *minus, double divisor, void *into, double *numbers)
{
    for (Py_ssize_t k = first; k < last; k++) {
        const int64_t *piece = pieces + k * N_FIELDS;
        Py_ssize_t place = (Py_ssize_t)piece[PLACE], offset = (Py_ssize_t)piece[OFFSET], n = (Py_ssize_t)piece[LENGTH];
        if (width == sizeof(float)) {
            float_values values = {(const float *)tensors[piece[TENSOR]] + offset, minus ? (float *)minus + place : NULL,
                                   (float)divisor, into ? (float *)into + place : NULL};
            float_take(values, n, numbers + k * N_NUMBERS);
        } else {
            double_values values = {(const double *)tensors[piece[TENSOR]] + offset,
                                    minus ? (double *)minus + place : NULL, divisor,
                                    into ? (double *)into + place : NULL};
            double_take(values, n, numbers + k * N_NUMBERS);
        }
    }
}

PyDoc_STRVAR(take_doc, "take(addresses, pieces, first, last, width, minus, divisor, into, numbers): see one_pass.py.");

static PyObject *take(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *addresses, *of_pieces, *of_minus, *of_into, *of_numbers, *result = NULL;
    Py_ssize_t first, last, width, n_tensors, n_values = 0;
    double divisor;
    if (!PyArg_ParseTuple(args, "O!OnnnOdOO:take", &PyList_Type, &addresses, &of_pieces, &first, &last, &width,
                          &of_minus, &divisor, &of_into, &of_numbers))
        return NULL;
    if (width != sizeof(float) && width != sizeof(double))
        return PyErr_Format(PyExc_ValueError, "values of %zd bytes cannot be measured", width);
    Py_buffer pieces = {0}, minus = {0}, into = {0}, numbers = {0};
    n_tensors = PyList_Size(addresses);
    void **tensors = PyMem_Malloc((n_tensors + 1) * sizeof(void *));
    if (!tensors)
        return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < n_tensors; i++)
        tensors[i] = PyLong_AsVoidPtr(PyList_GetItem(addresses, i));
    if (!PyErr_Occurred() && get_buffer(of_pieces, &pieces, PyBUF_C_CONTIGUOUS) == 0 &&
        get_buffer(of_minus, &minus, PyBUF_C_CONTIGUOUS) == 0 &&
        get_buffer(of_into, &into, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) == 0 &&
        get_buffer(of_numbers, &numbers, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) == 0 &&
        fit(pieces.buf, pieces.len / (N_FIELDS * (Py_ssize_t)sizeof(int64_t)), first, last, n_tensors, &minus, &into,
            &numbers, width)) {
        for (Py_ssize_t k = first; k < last; k++)
            n_values += (Py_ssize_t)((const int64_t *)pieces.buf)[k * N_FIELDS + LENGTH];
        PyThreadState *state = n_values > SMALL ? PyEval_SaveThread() : NULL;
        take_pieces(tensors, pieces.buf, first, last, width, minus.buf, divisor, into.buf, numbers.buf);
        if (state)
            PyEval_RestoreThread(state);
        result = Py_NewRef(Py_None);
    }
    PyMem_Free(tensors);
    Py_buffer *taken[] = {&pieces, &minus, &into, &numbers};
    for (int i = 0; i < 4; i++)
        if (taken[i]->obj)
            PyBuffer_Release(taken[i]);
    return result;
}

static PyMethodDef methods[] = {{"take", take, METH_VARARGS, take_doc}, {NULL, NULL, 0, NULL}};

static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_one_pass", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__one_pass(void)
{
    return PyModule_Create(&module);
}
