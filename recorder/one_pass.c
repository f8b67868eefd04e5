/* One pass over the values of many tensors, in which they are subtracted, divided, copied, chosen from and measured.

   What is done to a row happens while it is in the first cache: a network's values come out of memory once. one_pass.py
   says what it is for, and does the same in NumPy where this could not be compiled. */

#include <pyconfig.h>
#ifndef Py_GIL_DISABLED /* which has no limited API */
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#ifndef _WIN32
#include <dlfcn.h>
#endif
#include <math.h>
#include <stdint.h>
#include <string.h>

#define ROW 1024 /* values; their squares are summed in the values' own precision */
#define LANES 16 /* sums, extrema and counts side by side, which a compiler makes vectors of */
#define TINY 1e-12 /* where no float32 is larger, squares lose digits or vanish */
#define VERSION 2 /* of take's arguments: one_pass.py uses no other one, left over from an earlier installation */
#define SMALL 32768 /* fewer values are not worth letting go of the interpreter's lock */

/* Also for the vectors of newer processors, which are told apart when this is loaded. The sums are the same to the last
   bit: LANES says in which order they are made, and setup.py that none is fused with a product. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define CLONED __attribute__((flatten, target_clones("avx512f", "avx2", "default")))
#else
#define CLONED
#endif

enum { AS_IT_IS, MINUS, DIVIDED };
enum { SQUARES, MIN, MAX, ZEROS, NONFINITE, N_NUMBERS };                /* as in store/stats_rows.py */
enum { TENSOR, OFFSET, LENGTH, PLACE, CHOSEN, COUNT, PICKS, N_FIELDS }; /* of a piece, as in one_pass.py */

/* What a call is given beside the tensors; without memory (buf is NULL) where there is none. */
typedef struct {
    Py_buffer pieces, minus, into, picks, chosen, numbers;
    double divisor;
} Given;

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
static int fit(const Given *given, Py_ssize_t n_pieces, void *const *tensors, Py_ssize_t n_tensors, Py_ssize_t width)
{
    const int32_t *picks = given->picks.buf;
    Py_ssize_t n_picks = given->picks.len / (Py_ssize_t)sizeof(int32_t);
    int good = n_pieces <= given->numbers.len / (N_NUMBERS * (Py_ssize_t)sizeof(double));
    for (Py_ssize_t k = 0; good && k < n_pieces; k++) {
        const int64_t *piece = (const int64_t *)given->pieces.buf + k * N_FIELDS;
        int64_t n = piece[LENGTH], place = piece[PLACE], count = piece[COUNT], from = piece[PICKS];
        good = piece[TENSOR] >= 0 && piece[TENSOR] < n_tensors && tensors[piece[TENSOR]] && n >= 0 &&
               piece[OFFSET] >= 0 && place >= 0 && (!given->minus.obj || n <= given->minus.len / width - place) &&
               (!given->into.obj || n <= given->into.len / width - place);
        if (good && given->chosen.obj && count) {
            good = count > 0 && piece[CHOSEN] >= 0 && count <= given->chosen.len / width - piece[CHOSEN] &&
                   (from < 0 ? count == n : count <= n_picks - from);
            if (good && from >= 0) { /* those between them are, in ascending order; choose() reads no others */
                int64_t least = picks[from], largest = picks[from + count - 1];
                good = least >= 0 && largest >= least && largest < n;
            }
        }
    }
    if (!good)
        PyErr_SetString(PyExc_ValueError, "the pieces do not fit the tensors and arrays");
    return good;
}

typedef struct {
    void *const *tensors;
    const Given *given;
    Py_ssize_t width, n_pieces, next;
} Job;

static Py_ssize_t next_piece(Job *job)
{
#ifdef __GNUC__
    return __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
#else
    return job->next++; /* of one thread */
#endif
}

/* Go through pieces that no other thread has taken, until none is left. */
static void work(void *data)
{
    Job *job = data;
    for (Py_ssize_t k = next_piece(job); k < job->n_pieces; k = next_piece(job)) {
        const int64_t *piece = (const int64_t *)job->given->pieces.buf + k * N_FIELDS;
        double *numbers = (double *)job->given->numbers.buf + k * N_NUMBERS;
        if (job->width == sizeof(float))
            float_take(float_of(job->given, job->tensors[piece[TENSOR]], piece), piece[LENGTH], numbers);
        else
            double_take(double_of(job->given, job->tensors[piece[TENSOR]], piece), piece[LENGTH], numbers);
    }
}

/* OpenMP's own way to run something on each of so many threads, where torch has brought OpenMP along (GNU's, or LLVM's
   where that has it too): on torch's own threads, which spin for a while when they are done, and would hold up others.
   Elsewhere one thread goes through everything. */
static void (*parallel)(void (*)(void *), void *, unsigned, unsigned);

static void share(Job *job, Py_ssize_t n_threads)
{
    if (parallel && n_threads > 1)
        parallel(work, job, (unsigned)n_threads, 0);
    else
        work(job);
}

PyDoc_STRVAR(
    take_doc,
    "take(addresses, pieces, width, minus, divisor, into, picks, chosen, numbers, n_threads): see one_pass.py.");

static PyObject *take(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *addresses, *of_pieces, *of_minus, *of_into, *of_picks, *of_chosen, *of_numbers, *result = NULL;
    Py_ssize_t width, n_threads, n_tensors, n_values = 0;
    Given given = {0};
    if (!PyArg_ParseTuple(args, "O!OnOdOOOOn:take", &PyList_Type, &addresses, &of_pieces, &width, &of_minus,
                          &given.divisor, &of_into, &of_picks, &of_chosen, &of_numbers, &n_threads))
        return NULL;
    if (width != sizeof(float) && width != sizeof(double))
        return PyErr_Format(PyExc_ValueError, "values of %zd bytes cannot be measured", width);
    n_tensors = PyList_Size(addresses);
    void **tensors = PyMem_Malloc((size_t)(n_tensors + 1) * sizeof(void *));
    if (!tensors)
        return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < n_tensors; i++)
        tensors[i] = PyLong_AsVoidPtr(PyList_GetItem(addresses, i));
    if (!PyErr_Occurred() && get_buffer(of_pieces, &given.pieces, PyBUF_SIMPLE, sizeof(int64_t)) == 0 &&
        get_buffer(of_minus, &given.minus, PyBUF_SIMPLE, width) == 0 &&
        get_buffer(of_into, &given.into, PyBUF_WRITABLE, width) == 0 &&
        get_buffer(of_picks, &given.picks, PyBUF_SIMPLE, sizeof(int32_t)) == 0 &&
        get_buffer(of_chosen, &given.chosen, PyBUF_WRITABLE, width) == 0 &&
        get_buffer(of_numbers, &given.numbers, PyBUF_WRITABLE, sizeof(double)) == 0) {
        Py_ssize_t n_pieces = given.pieces.len / (N_FIELDS * (Py_ssize_t)sizeof(int64_t));
        if (fit(&given, n_pieces, tensors, n_tensors, width)) {
            Job job = {tensors, &given, width, n_pieces, 0};
            for (Py_ssize_t k = 0; k < n_pieces; k++)
                n_values += (Py_ssize_t)((const int64_t *)given.pieces.buf)[k * N_FIELDS + LENGTH];
            PyThreadState *state = n_values > SMALL ? PyEval_SaveThread() : NULL;
            share(&job, n_threads);
            if (state)
                PyEval_RestoreThread(state);
            result = Py_NewRef(Py_None);
        }
    }
    PyMem_Free(tensors);
    Py_buffer *taken[] = {&given.pieces, &given.minus, &given.into, &given.picks, &given.chosen, &given.numbers};
    for (int i = 0; i < 6; i++)
        if (taken[i]->obj)
            PyBuffer_Release(taken[i]);
    return result;
}

static PyMethodDef methods[] = {{"take", take, METH_VARARGS, take_doc}, {NULL, NULL, 0, NULL}};

static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_one_pass", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__one_pass(void)
{
#ifndef _WIN32
    *(void **)&parallel = dlsym(RTLD_DEFAULT, "GOMP_parallel");
#endif
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "VERSION", VERSION) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
