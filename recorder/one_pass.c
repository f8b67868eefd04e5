/* One pass over the values of many tensors, in which they are subtracted, divided, copied and measured.

   What is done to a row happens while it is in the first cache: a network's values come out of memory once. one_pass.py
   says what it is for, and does the same in NumPy where this could not be compiled. */

#ifndef Py_GIL_DISABLED /* which has no limited API */
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define ROW 1024 /* values; their squares are summed in the values' own precision */
#define LANES 16 /* sums, extrema and counts side by side, which a compiler makes vectors of */
#define TINY 1e-12 /* where no float32 is larger, squares lose digits or vanish */
#define VERSION 1 /* of take's arguments: one_pass.py uses no other one, left over from an earlier installation */
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

/* A buffer of numbers of this width; none for None. Returns 0, or -1 with an exception set. */
static int get_buffer(PyObject *object, Py_buffer *buffer, int flags, Py_ssize_t width)
{
    if (object == Py_None)
        return 0;
    if (PyObject_GetBuffer(object, buffer, flags | PyBUF_C_CONTIGUOUS) < 0)
        return -1;
    if (buffer->itemsize == width)
        return 0;
    PyErr_Format(PyExc_ValueError, "numbers of %zd bytes do not fit, %zd are needed", buffer->itemsize, width);
    return -1;
}

/* Whether the pieces lie within the arrays; that they lie within the tensors one_pass.py has seen to. */
static int fit(const Py_buffer *table, Py_ssize_t first, Py_ssize_t last, void *const *tensors, Py_ssize_t n_tensors,
               const Py_buffer *minus, const Py_buffer *into, const Py_buffer *numbers, Py_ssize_t width)
{
    const int64_t *pieces = table->buf;
    Py_ssize_t n_pieces = table->len / (N_FIELDS * (Py_ssize_t)sizeof(int64_t));
    int good = first >= 0 && first <= last && last <= n_pieces &&
               last <= numbers->len / (N_NUMBERS * (Py_ssize_t)sizeof(double));
    for (Py_ssize_t k = first; good && k < last; k++) {
        const int64_t *piece = pieces + k * N_FIELDS;
        int64_t n = piece[LENGTH], place = piece[PLACE];
        good = piece[TENSOR] >= 0 && piece[TENSOR] < n_tensors && tensors[piece[TENSOR]] && n >= 0 &&
               piece[OFFSET] >= 0 && place >= 0 && (!minus->obj || n <= minus->len / width - place) &&
               (!into->obj || n <= into->len / width - place);
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
    void **tensors = PyMem_Malloc((size_t)(n_tensors + 1) * sizeof(void *));
    if (!tensors)
        return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < n_tensors; i++)
        tensors[i] = PyLong_AsVoidPtr(PyList_GetItem(addresses, i));
    if (!PyErr_Occurred() && get_buffer(of_pieces, &pieces, PyBUF_SIMPLE, sizeof(int64_t)) == 0 &&
        get_buffer(of_minus, &minus, PyBUF_SIMPLE, width) == 0 &&
        get_buffer(of_into, &into, PyBUF_WRITABLE, width) == 0 &&
        get_buffer(of_numbers, &numbers, PyBUF_WRITABLE, sizeof(double)) == 0 &&
        fit(&pieces, first, last, tensors, n_tensors, &minus, &into, &numbers, width)) {
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
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "VERSION", VERSION) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
