/* Arithmetic modulo p = 2^255 - 19 on eight numbers at once, with AVX-512 IFMA.

   An element is five limbs of 51 bits, least significant first: value = sum limb[k] * 2^(51 k). Each limb is a vector of
   eight 64-bit lanes, one lane for each of eight independent numbers. A multiplication instruction of IFMA reads the low
   52 bits of its operands and adds the low or the high 52 bits of the product, so the bound that every function keeps is

       loose: limb < 2^51 + 2^18        what all functions take and return, unless they say otherwise
       wide:  limb < 2^60               a product before its carry; may be added and subtracted, not multiplied

   High halves weigh 2^52 = 2 * 2^51 times their place, hence the doublings.

   Constant time: no branch, no address and no number of rounds depends on a limb. Selection is by mask registers. The
   instructions used have no data-dependent timing on any processor that has IFMA.

   Sources: RFC 7748 section 4.1 for the field; Gueron and Krasnov, "Software implementation of modular exponentiation,
   using advanced vector instructions architectures" (2012) for the use of 52-bit multiply-add. */
#ifndef ENTENTE_FIELD25519X8_H
#define ENTENTE_FIELD25519X8_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

enum { LANES = 8, LIMBS = 5, LIMB_BITS = 51, ELEMENT_BYTES = 32 };
#define LIMB_MASK ((1ULL << LIMB_BITS) - 1)
#define INLINE static inline __attribute__((always_inline))

typedef __m512i lanes;
typedef struct {
    lanes limb[LIMBS];
} element;

INLINE lanes every(uint64_t value) { return _mm512_set1_epi64((long long)value); }
INLINE lanes plus(lanes a, lanes b) { return _mm512_add_epi64(a, b); }
INLINE lanes minus(lanes a, lanes b) { return _mm512_sub_epi64(a, b); }
INLINE lanes both(lanes a, lanes b) { return _mm512_and_si512(a, b); }
INLINE lanes either(lanes a, lanes b) { return _mm512_or_si512(a, b); }
#define SHIFT_LEFT(a, bits) _mm512_slli_epi64((a), (bits))
#define SHIFT_RIGHT(a, bits) _mm512_srli_epi64((a), (bits))
/* sum + the low (high) 52 bits of the 104-bit product of the low 52 bits of a and b. */
INLINE lanes add_low(lanes sum, lanes a, lanes b) { return _mm512_madd52lo_epu64(sum, a, b); }
INLINE lanes add_high(lanes sum, lanes a, lanes b) { return _mm512_madd52hi_epu64(sum, a, b); }

INLINE lanes times_19(lanes a) { return plus(plus(SHIFT_LEFT(a, 4), SHIFT_LEFT(a, 1)), a); }

INLINE element element_of(uint64_t small) {
    element out;
    out.limb[0] = every(small);
    for (int k = 1; k < LIMBS; k++) out.limb[k] = _mm512_setzero_si512();
    return out;
}

/* One parallel carry. Takes any limbs below 2^64, and returns loose ones: what is carried is below 2^13, and from the
   top limb 19 times that. */
INLINE element carry(element a) {
    const lanes mask = every(LIMB_MASK);
    element out;
    out.limb[0] = add_low(both(a.limb[0], mask), SHIFT_RIGHT(a.limb[4], LIMB_BITS), every(19));
    for (int k = 1; k < LIMBS; k++)
        out.limb[k] = plus(both(a.limb[k], mask), SHIFT_RIGHT(a.limb[k - 1], LIMB_BITS));
    return out;
}

/* Takes wide elements. */
INLINE element add(element a, element b) {
    for (int k = 0; k < LIMBS; k++) a.limb[k] = plus(a.limb[k], b.limb[k]);
    return carry(a);
}

/* Limb k of 2^11 p: above every wide limb, so adding it keeps a difference of wide elements from going below zero. */
#define OFFSET(k) (((k) ? LIMB_MASK : LIMB_MASK - 18) << 11)

INLINE element offset(element a) {
    for (int k = 0; k < LIMBS; k++) a.limb[k] = plus(a.limb[k], every(OFFSET(k)));
    return a;
}

/* a - b, where a has an offset and b is wide. */
INLINE element subtract_offset(element a, element b) {
    for (int k = 0; k < LIMBS; k++) a.limb[k] = minus(a.limb[k], b.limb[k]);
    return carry(a);
}

/* a - b, for wide elements. */
INLINE element subtract(element a, element b) { return subtract_offset(offset(a), b); }

/* The doubled high halves of a product's columns, each moved to the column above. */
INLINE void move_up(lanes column[2 * LIMBS], const lanes high[2 * LIMBS - 1]) {
#pragma GCC unroll 9
    for (int k = 0; k < 2 * LIMBS - 1; k++) column[k + 1] = SHIFT_LEFT(high[k], 1);
}

/* Column k + 5 weighs 2^255 = 19 times column k. A column holds at most five doubled high halves, each below 2^51 and a
   little, and five low halves below 2^52: it is below 2^55, so the result is wide. */
INLINE element fold(const lanes column[2 * LIMBS]) {
    element out;
    for (int k = 0; k < LIMBS; k++) out.limb[k] = plus(column[k], times_19(column[k + LIMBS]));
    return out;
}

/* a * b + start: the low halves are added to the high halves of the column below. The limbs of start are even but for
   the lowest. */
INLINE element multiply_from(const uint64_t start[LIMBS], element a, element b) {
    lanes high[2 * LIMBS - 1], column[2 * LIMBS];
#pragma GCC unroll 9
    for (int k = 0; k < 2 * LIMBS - 1; k++) high[k] = every(k < LIMBS - 1 ? start[k + 1] / 2 : 0);
    column[0] = every(start[0]);
#pragma GCC unroll 5
    for (int i = 0; i < LIMBS; i++) {
#pragma GCC unroll 5
        for (int j = 0; j < LIMBS; j++) high[i + j] = add_high(high[i + j], a.limb[i], b.limb[j]);
    }
    move_up(column, high);
#pragma GCC unroll 5
    for (int i = 0; i < LIMBS; i++) {
#pragma GCC unroll 5
        for (int j = 0; j < LIMBS; j++) column[i + j] = add_low(column[i + j], a.limb[i], b.limb[j]);
    }
    return fold(column);
}

/* The product as a wide element. */
INLINE element multiply_wide(element a, element b) {
    const uint64_t zero[LIMBS] = {0};
    return multiply_from(zero, a, b);
}

/* The product as a wide element plus 2^11 p, which costs nothing here: for subtract_offset, and for add. */
INLINE element multiply_offset(element a, element b) {
    const uint64_t offset[LIMBS] = {OFFSET(0), OFFSET(1), OFFSET(2), OFFSET(3), OFFSET(4)};
    return multiply_from(offset, a, b);
}

/* As multiply_wide, with each mixed product once: their sums are doubled before the squares of the limbs join them. */
INLINE element square_wide(element a) {
    lanes high[2 * LIMBS - 1], column[2 * LIMBS];
#pragma GCC unroll 9
    for (int k = 0; k < 2 * LIMBS - 1; k++) high[k] = _mm512_setzero_si512();
    column[0] = _mm512_setzero_si512();
#pragma GCC unroll 5
    for (int i = 0; i < LIMBS; i++) {
#pragma GCC unroll 5
        for (int j = i + 1; j < LIMBS; j++) high[i + j] = add_high(high[i + j], a.limb[i], a.limb[j]);
    }
    move_up(column, high);
#pragma GCC unroll 5
    for (int i = 0; i < LIMBS; i++) {
#pragma GCC unroll 5
        for (int j = i + 1; j < LIMBS; j++) column[i + j] = add_low(column[i + j], a.limb[i], a.limb[j]);
    }
#pragma GCC unroll 5
    for (int i = 0; i < LIMBS; i++) { /* a square's high half weighs 2, like the mixed products of its column */
        column[2 * i + 1] = SHIFT_LEFT(add_high(column[2 * i + 1], a.limb[i], a.limb[i]), 1);
        column[2 * i] = add_low(i ? SHIFT_LEFT(column[2 * i], 1) : column[0], a.limb[i], a.limb[i]);
    }
    return fold(column);
}

INLINE element multiply(element a, element b) { return carry(multiply_wide(a, b)); }
INLINE element square(element a) { return carry(square_wide(a)); }

/* a + small * b, for small below 2^20. */
INLINE element add_multiple(element a, uint64_t small, element b) {
    const lanes factor = every(small), zero = _mm512_setzero_si512();
    element out;
    lanes high[LIMBS];
    for (int k = 0; k < LIMBS; k++) {
        out.limb[k] = add_low(a.limb[k], b.limb[k], factor);
        high[k] = SHIFT_LEFT(add_high(zero, b.limb[k], factor), 1);
    }
    out.limb[0] = add_low(out.limb[0], high[4], every(19));
    for (int k = 1; k < LIMBS; k++) out.limb[k] = plus(out.limb[k], high[k - 1]);
    return carry(out);
}

/* Exchanges a and b in every lane whose bit is set. */
INLINE void exchange(__mmask8 mask, element *a, element *b) {
    for (int k = 0; k < LIMBS; k++) {
        lanes kept = a->limb[k];
        a->limb[k] = _mm512_mask_mov_epi64(kept, mask, b->limb[k]);
        b->limb[k] = _mm512_mask_mov_epi64(b->limb[k], mask, kept);
    }
}

/* b in every lane whose bit is set, a in the others. */
INLINE element choose(__mmask8 mask, element a, element b) {
    for (int k = 0; k < LIMBS; k++) a.limb[k] = _mm512_mask_mov_epi64(a.limb[k], mask, b.limb[k]);
    return a;
}

static inline element square_times(element a, int times) {
    for (int n = 0; n < times; n++) a = square(a);
    return a;
}

/* z^(2^250 - 1), with z^2 and z^11 on the way. */
static inline element power_2_250_less_1(element z, element *z_2, element *z_11) {
    *z_2 = square(z);
    element z_9 = multiply(square_times(*z_2, 2), z);
    *z_11 = multiply(z_9, *z_2);
    element bits_5 = multiply(square(*z_11), z_9); /* "bits_n" is z^(2^n - 1) */
    element bits_10 = multiply(square_times(bits_5, 5), bits_5);
    element bits_20 = multiply(square_times(bits_10, 10), bits_10);
    element bits_40 = multiply(square_times(bits_20, 20), bits_20);
    element bits_50 = multiply(square_times(bits_40, 10), bits_10);
    element bits_100 = multiply(square_times(bits_50, 50), bits_50);
    element bits_200 = multiply(square_times(bits_100, 100), bits_100);
    return multiply(square_times(bits_200, 50), bits_50);
}

/* 1/z = z^(p - 2) = z^(2^255 - 21); 0 for 0. */
static inline element invert(element z) {
    element z_2, z_11, power = power_2_250_less_1(z, &z_2, &z_11);
    return multiply(square_times(power, 5), z_11);
}

/* z^((p - 1) / 2) = z^(2^254 - 10): 1 for squares, -1 for others, 0 for 0. */
static inline element quadratic_character(element z) {
    element z_2, z_11, power = power_2_250_less_1(z, &z_2, &z_11);
    return multiply(square_times(power, 4), multiply(square(z_2), z_2));
}

/* The one spelling below p. */
static inline element canonical(element a) {
    const lanes mask = every(LIMB_MASK);
    lanes *limb = a.limb;
    for (int pass = 0; pass < 2; pass++) { /* to below 2^255 */
        for (int k = 0; k < LIMBS - 1; k++) {
            limb[k + 1] = plus(limb[k + 1], SHIFT_RIGHT(limb[k], LIMB_BITS));
            limb[k] = both(limb[k], mask);
        }
        limb[0] = plus(limb[0], times_19(SHIFT_RIGHT(limb[4], LIMB_BITS)));
        limb[4] = both(limb[4], mask);
    }
    lanes beyond = SHIFT_RIGHT(plus(limb[0], every(19)), LIMB_BITS); /* 1 where the value is p or more */
    for (int k = 1; k < LIMBS; k++) beyond = SHIFT_RIGHT(plus(limb[k], beyond), LIMB_BITS);
    limb[0] = plus(limb[0], times_19(beyond));
    for (int k = 0; k < LIMBS - 1; k++) {
        limb[k + 1] = plus(limb[k + 1], SHIFT_RIGHT(limb[k], LIMB_BITS));
        limb[k] = both(limb[k], mask);
    }
    limb[4] = both(limb[4], mask);
    return a;
}

/* Lanes where a canonical element is zero. */
INLINE __mmask8 is_zero(element a) {
    lanes any = a.limb[0];
    for (int k = 1; k < LIMBS; k++) any = either(any, a.limb[k]);
    return _mm512_cmpeq_epi64_mask(any, _mm512_setzero_si512());
}

/* The low 255 bits of four little-endian 64-bit words for each lane; the high bit is ignored (RFC 7748, section 5). */
INLINE element from_words(const lanes word[4]) {
    const lanes mask = every(LIMB_MASK);
    element out;
    out.limb[0] = both(word[0], mask);
    out.limb[1] = both(either(SHIFT_RIGHT(word[0], 51), SHIFT_LEFT(word[1], 13)), mask);
    out.limb[2] = both(either(SHIFT_RIGHT(word[1], 38), SHIFT_LEFT(word[2], 26)), mask);
    out.limb[3] = both(either(SHIFT_RIGHT(word[2], 25), SHIFT_LEFT(word[3], 39)), mask);
    out.limb[4] = both(SHIFT_RIGHT(word[3], 12), mask);
    return out;
}

/* Eight rows of 32 bytes, little-endian. */
static inline element load(const uint8_t rows[LANES * ELEMENT_BYTES]) {
    uint64_t words[4][LANES];
    lanes word[4];
    for (int lane = 0; lane < LANES; lane++)
        for (int w = 0; w < 4; w++) memcpy(&words[w][lane], rows + ELEMENT_BYTES * lane + 8 * w, 8);
    for (int w = 0; w < 4; w++) word[w] = _mm512_loadu_si512(words[w]);
    return from_words(word);
}

static inline void store(uint8_t rows[LANES * ELEMENT_BYTES], element a) {
    uint64_t words[4][LANES];
    a = canonical(a);
    const lanes *limb = a.limb;
    _mm512_storeu_si512(words[0], either(limb[0], SHIFT_LEFT(limb[1], 51)));
    _mm512_storeu_si512(words[1], either(SHIFT_RIGHT(limb[1], 13), SHIFT_LEFT(limb[2], 38)));
    _mm512_storeu_si512(words[2], either(SHIFT_RIGHT(limb[2], 26), SHIFT_LEFT(limb[3], 25)));
    _mm512_storeu_si512(words[3], either(SHIFT_RIGHT(limb[3], 39), SHIFT_LEFT(limb[4], 12)));
    for (int lane = 0; lane < LANES; lane++)
        for (int w = 0; w < 4; w++) memcpy(rows + ELEMENT_BYTES * lane + 8 * w, &words[w][lane], 8);
}

#endif
