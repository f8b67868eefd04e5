/* The part of one_pass.c that depends on the type of the values: included once for each, with VALUE and NAME(x). */

/* n values, where they are; what is subtracted from them, or what they are divided by; and where they go: all of them,
   and ``count`` chosen ones, those at ``picks``, in ascending order, or all where this is NULL. */
typedef struct {
    const VALUE *source, *minus;
    VALUE divisor;
    VALUE *into, *chosen;
    const int32_t *picks;
    int64_t count;
} NAME(values);

static NAME(values) NAME(of)(const Given *given, const void *tensor, const int64_t *piece)
{
    NAME(values) values = {(const VALUE *)tensor + piece[OFFSET], NULL, (VALUE)given->divisor, NULL, NULL, NULL, 0};
    if (given->minus.buf)
        values.minus = (const VALUE *)given->minus.buf + piece[PLACE];
    if (given->into.buf)
        values.into = (VALUE *)given->into.buf + piece[PLACE];
    if (given->chosen.buf && piece[COUNT]) {
        values.chosen = (VALUE *)given->chosen.buf + piece[CHOSEN];
        values.picks = piece[PICKS] < 0 ? NULL : (const int32_t *)given->picks.buf + piece[PICKS];
        values.count = piece[COUNT];
    }
    return values;
}

typedef struct {
    double squares;
    int64_t zeros, nonfinite;
    VALUE least[LANES], largest[LANES];
} NAME(found);

typedef struct {
    VALUE squares[LANES], least[LANES], largest[LANES];
    int32_t zeros[LANES];
} NAME(lanes);

static inline VALUE NAME(value)(const NAME(values) *values, Py_ssize_t i, int how)
{
    VALUE x = values->source[i];
    return how == MINUS ? x - values->minus[i] : how == DIVIDED ? x / values->divisor : x;
}

static inline void NAME(see)(NAME(lanes) *lanes, int j, VALUE x)
{
    lanes->squares[j] += x * x;
    lanes->least[j] = x < lanes->least[j] ? x : lanes->least[j];
    lanes->largest[j] = x > lanes->largest[j] ? x : lanes->largest[j];
    lanes->zeros[j] += x == 0;
}

/* Measure the values start ... stop - 1. How, and whether to store them, are constants: a loop for each. */
static inline void NAME(add)(
    NAME(found) *found, const NAME(values) *given, Py_ssize_t start, Py_ssize_t stop, int how, int store)
{
    const NAME(values) values = *given;
    NAME(lanes) lanes = {0};
    memcpy(lanes.least, found->least, sizeof lanes.least);
    memcpy(lanes.largest, found->largest, sizeof lanes.largest);
    Py_ssize_t i = start;
    for (; i + LANES <= stop; i += LANES)
        for (int j = 0; j < LANES; j++) {
            VALUE x = NAME(value)(&values, i + j, how);
            if (store)
                values.into[i + j] = x;
            NAME(see)(&lanes, j, x);
        }
    for (; i < stop; i++) {
        VALUE x = NAME(value)(&values, i, how);
        if (store)
            values.into[i] = x;
        NAME(see)(&lanes, (int)(i % LANES), x);
    }
    memcpy(found->least, lanes.least, sizeof lanes.least);
    memcpy(found->largest, lanes.largest, sizeof lanes.largest);
    for (int j = 0; j < LANES; j++) {
        found->squares += lanes.squares[j];
        found->zeros += lanes.zeros[j];
    }
}

/* Once more, where there is NaN or Inf, or squares that the values' own precision cannot hold. */
static void NAME(add_carefully)(NAME(found) *found, const NAME(values) *values, Py_ssize_t n, int how)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        VALUE x = NAME(value)(values, i, how);
        found->squares += (double)x * (double)x;
        found->zeros += x == 0;
        if (isfinite(x)) {
            found->least[0] = x < found->least[0] ? x : found->least[0];
            found->largest[0] = x > found->largest[0] ? x : found->largest[0];
        } else {
            found->nonfinite++;
        }
    }
}

/* Copy those of the values start ... stop - 1 that are chosen; ``done`` of the chosen ones came before them. */
static int64_t NAME(choose)(
    const NAME(values) *values, int64_t done, Py_ssize_t start, Py_ssize_t stop, int how)
{
    if (!values->picks)
        for (Py_ssize_t i = start; i < stop; i++)
            values->chosen[i] = NAME(value)(values, i, how);
    else
        for (; done < values->count && (size_t)values->picks[done] < (size_t)stop; done++) /* none is below 0 */
            values->chosen[done] = NAME(value)(values, values->picks[done], how);
    return done;
}

#define CASE(HOW, STORE)                                                                                               \
    case 2 * (HOW) + (STORE):                                                                                          \
        NAME(add)(found, values, start, stop, HOW, STORE);                                                             \
        break;

static void NAME(add_all)(NAME(found) *found, const NAME(values) *values, Py_ssize_t n, int how)
{
    int64_t done = 0;
    for (Py_ssize_t start = 0; start < n; start += ROW) {
        Py_ssize_t stop = start + ROW < n ? start + ROW : n;
        switch (2 * how + (values->into != NULL)) {
            CASE(AS_IT_IS, 0)
            CASE(AS_IT_IS, 1)
            CASE(MINUS, 0)
            CASE(MINUS, 1)
            CASE(DIVIDED, 0)
            CASE(DIVIDED, 1)
        }
        if (values->chosen)
            done = NAME(choose)(values, done, start, stop, how);
    }
}

CLONED static void NAME(take)(NAME(values) values, Py_ssize_t n, double *numbers)
{
    int how = values.minus ? MINUS : values.divisor != 1 ? DIVIDED : AS_IT_IS;
    VALUE least = (VALUE)INFINITY, largest = (VALUE)-INFINITY;
    NAME(found) found = {0};
    for (int j = 0; j < LANES; j++) {
        found.least[j] = least;
        found.largest[j] = largest;
    }
    NAME(found) careful = found;
    NAME(add_all)(&found, &values, n, how);
    int good = found.squares > TINY * TINY && found.squares < INFINITY; /* NaN is not between them either */
    if (!good && found.zeros < n) {
        NAME(add_carefully)(&careful, &values, n, how);
        found = careful;
    }
    for (int j = 0; j < LANES; j++) {
        least = found.least[j] < least ? found.least[j] : least;
        largest = found.largest[j] > largest ? found.largest[j] : largest;
    }
    numbers[SQUARES] = found.squares;
    numbers[MIN] = least <= largest ? least : NAN;
    numbers[MAX] = least <= largest ? largest : NAN;
    numbers[ZEROS] = (double)found.zeros;
    numbers[NONFINITE] = (double)found.nonfinite;
}

#undef CASE
#undef VALUE
#undef NAME
