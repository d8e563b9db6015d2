/* X25519 with one scalar and many points, and Elligator 2, eight points at a time.

   What is secret is the scalar. It decides one mask a ladder step (eight equal bits) and nothing else: every step does
   the same operations on the same addresses, whatever the bit. Whether a point has low order is not secret (its result
   is zero for every scalar, and the row is reported); it too is handled by masks. Points, elements and their number
   decide no branch beyond the number of rows. */
#include "field25519x8.h"
#include "kernel.h"

enum { GROUPS = 32, ROW_BYTES = ELEMENT_BYTES, GROUP_BYTES = LANES * ELEMENT_BYTES };

/* Overwrites memory in a way that the compiler may not leave out. */
static void wipe(void *memory, size_t bytes) {
    memset(memory, 0, bytes);
    __asm__ volatile("" : : "r"(memory) : "memory");
}

static size_t rows_of_group(size_t first, size_t count) { return count - first < LANES ? count - first : LANES; }

/* Eight rows from the one given on, the last ones filled up with zeros. */
static element load_rows(const uint8_t *rows, size_t first, size_t count) {
    uint8_t group[GROUP_BYTES] = {0};
    memcpy(group, rows + ROW_BYTES * first, ROW_BYTES * rows_of_group(first, count));
    return load(group);
}

static void store_rows(uint8_t *rows, size_t first, size_t count, element value) {
    uint8_t group[GROUP_BYTES];
    store(group, value);
    memcpy(rows + ROW_BYTES * first, group, ROW_BYTES * rows_of_group(first, count));
}

/* Montgomery's trick: each of up to GROUPS elements becomes its inverse at the cost of one inversion. None may be zero. */
static void invert_all(element *values, size_t count) {
    element products[GROUPS];
    products[0] = values[0];
    for (size_t n = 1; n < count; n++) products[n] = multiply(products[n - 1], values[n]);
    element rest = invert(products[count - 1]);
    for (size_t n = count - 1; n > 0; n--) {
        element inverse = multiply(rest, products[n - 1]);
        rest = multiply(rest, values[n]);
        values[n] = inverse;
    }
    values[0] = rest;
}

/* The Montgomery ladder of RFC 7748, section 5: (*x : *z) = scalar * u. The scalar is clamped. */
static void ladder(const uint8_t scalar[32], element u, element *x, element *z) {
    element x2 = offset(element_of(1)), z2 = element_of(0), x3 = u, z3 = offset(element_of(1));
    unsigned swapped = 0;
    for (int t = 254; t >= 0; t--) {
        unsigned bit = (scalar[t >> 3] >> (t & 7)) & 1; /* t is the loop's own: a public address */
        __mmask8 mask = (__mmask8)(0 - (swapped ^ bit));
        swapped = bit;
        /* x2, z3 and aa carry an offset; d is minus the RFC's, which its square and the choice of which sum is which
           undo. */
        element a = factor(sum(x2, z2)), b = factor(difference(x2, z2));
        element c = factor(sum(x3, z3)), d = factor(difference(z3, x3));
        element da = multiply_from(WITH_OFFSET, d, a), cb = multiply_from(NONE, c, b);
        /* The sum of the two points is the same whichever is doubled; so only what is doubled is chosen. */
        element aa = square_from(WITH_OFFSET, choose(mask, a, c)), bb = square_from(NONE, choose(mask, b, d));
        element e = factor(difference(aa, bb));
        /* Wide is enough for what is only added and subtracted in the next step. */
        x3 = square_from(NONE, factor(difference(da, cb)));
        z3 = multiply_from(WITH_OFFSET, u, factor(square_from(NONE, factor(sum(da, cb)))));
        x2 = multiply_from(WITH_OFFSET, factor(aa), factor(bb));
        z2 = multiply_from(NONE, e, factor(sum_multiple(aa, 121665, e)));
    }
    __mmask8 mask = (__mmask8)(0 - swapped);
    exchange(mask, &x2, &x3);
    exchange(mask, &z2, &z3);
    *x = carry(x2);
    *z = carry(z2);
}

void entente_blind(const uint8_t scalar[32], const uint8_t *points, uint8_t *out, uint8_t *low_order, size_t count) {
    uint8_t clamped[32];
    memcpy(clamped, scalar, sizeof clamped);
    clamped[0] &= 248;
    clamped[31] = (clamped[31] & 127) | 64;
    for (size_t start = 0; start < count; start += GROUPS * LANES) {
        element x[GROUPS], z[GROUPS];
        __mmask8 zero[GROUPS];
        size_t groups = 0;
        for (size_t first = start; first < count && groups < GROUPS; first += LANES, groups++) {
            ladder(clamped, load_rows(points, first, count), &x[groups], &z[groups]);
            /* z is 0 for points of low order (and for the zeros that fill up the last group), and for no others. */
            z[groups] = canonical(z[groups]);
            zero[groups] = is_zero(z[groups]);
            z[groups] = choose(zero[groups], z[groups], element_of(1));
        }
        invert_all(z, groups);
        for (size_t g = 0; g < groups; g++) {
            size_t first = start + LANES * g;
            store_rows(out, first, count, choose(zero[g], multiply(x[g], z[g]), element_of(0)));
            for (size_t row = first, rows = rows_of_group(first, count); row < first + rows; row++)
                low_order[row] = (zero[g] >> (row - first)) & 1;
        }
    }
    wipe(clamped, sizeof clamped);
}

/* RFC 9380, section 6.7.1 with Z = 2, J = 486662, K = 1; only u. With d = 1 + 2 r^2, which is never zero because -1/2 is
   not a square, x1 = -J / d and x2 = -J - x1; x1 is on the curve where g(x1) = x1^3 + J x1^2 + x1 is a square or 0, else
   x2 is. g(x1) d^4 = -J d (J^2 - J^2 d + d^2) is a square exactly where g(x1) is, and needs no inverse. */
void entente_map_to_curve(const uint8_t *elements, uint8_t *out, size_t count) {
    const element zero = element_of(0), one = element_of(1), j = element_of(486662);
    const element minus_j = subtract(zero, j), jj = square(j);
    for (size_t start = 0; start < count; start += GROUPS * LANES) {
        element d[GROUPS];
        __mmask8 second[GROUPS];
        size_t groups = 0;
        for (size_t first = start; first < count && groups < GROUPS; first += LANES, groups++) {
            element rr = square(load_rows(elements, first, count));
            d[groups] = add(add(rr, rr), one);
            element inner = add(subtract(jj, multiply(jj, d[groups])), square(d[groups]));
            element like_g = multiply(multiply(minus_j, d[groups]), inner);
            element character = canonical(quadratic_character(like_g));
            second[groups] = _mm512_cmpgt_epu64_mask(character.limb[0], every(1)); /* -1 ends in 2^52 - 20 */
        }
        invert_all(d, groups);
        for (size_t g = 0; g < groups; g++) {
            element x1 = multiply(minus_j, d[g]), x2 = subtract(minus_j, x1);
            store_rows(out, start + LANES * g, count, choose(second[g], x1, x2));
        }
    }
}
