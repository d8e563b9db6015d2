/* Arithmetic modulo p = 2^255 - 19 on eight numbers at once, with AVX-512 IFMA.

   An element is five limbs of 52 bits, least significant first: value = sum limb[k] * 2^(52 k). Each limb is a vector of
   eight 64-bit lanes, one lane for each of eight independent numbers. A multiplication instruction of IFMA reads the low
   52 bits of its operands, ignores the rest, and adds the low or the high 52 bits of the product. So a limb is a digit of
   IFMA, the high half of a product belongs to the next column as it is, and carries need no masks between factors:

       loose:  limb < 2^52, the top one < 2^48    what functions take and return, unless they say otherwise
       factor: as loose, once what is above the low 52 bits of all but the top limb is forgotten: good for being
               multiplied and for nothing else; a loose element is one
       wide:   limb < 2^57, or that plus an offset (below): sums of products before a carry; may be added and subtracted,
               not multiplied

   2^255 = 19 mod p is bit 47 of the top limb; 2^260 = 608 mod p is the limb after it.

   Constant time: no branch, no address and no number of rounds depends on a limb. Selection is by mask registers. The
   instructions used have no data-dependent timing on any processor that has IFMA.

   Sources: RFC 7748 section 4.1 for the field; Gueron and Krasnov, "Software implementation of modular exponentiation,
   using advanced vector instructions architectures" (2012) for the use of 52-bit multiply-add. */
#ifndef ENTENTE_FIELD25519X8_H
#define ENTENTE_FIELD25519X8_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

enum { LANES = 8, LIMBS = 5, LIMB_BITS = 52, TOP_BITS = 47, ELEMENT_BYTES = 32 };
#define LIMB_MASK ((1ULL << LIMB_BITS) - 1)
#define TOP_MASK ((1ULL << TOP_BITS) - 1)
#define NEXT_LIMB 608 /* 2^260 mod p */
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

INLINE lanes twice(lanes a) { return plus(a, a); }

INLINE element element_of(uint64_t small) {
    element out;
    out.limb[0] = every(small);
    for (int k = 1; k < LIMBS; k++) out.limb[k] = _mm512_setzero_si512();
    return out;
}

/* Carries from each limb into the next, and what is above 2^255 as 19 times that into the lowest. Takes any limbs below
   2^64 - 2^18, and returns a factor: the top limb gets less than 2^12 on top of 47 bits. */
INLINE element factor(element a) {
    a.limb[0] = add_low(a.limb[0], SHIFT_RIGHT(a.limb[4], TOP_BITS), every(19));
    a.limb[4] = both(a.limb[4], every(TOP_MASK));
    for (int k = 1; k < LIMBS; k++) a.limb[k] = plus(a.limb[k], SHIFT_RIGHT(a.limb[k - 1], LIMB_BITS));
    return a;
}

/* As factor, but returns a loose element. */
INLINE element carry(element a) {
    a = factor(a);
    for (int k = 0; k < LIMBS - 1; k++) a.limb[k] = both(a.limb[k], every(LIMB_MASK));
    return a;
}

/* Sums and differences limb by limb, without carry. Of a difference, a has an offset and b has none. */
INLINE element sum(element a, element b) {
    for (int k = 0; k < LIMBS; k++) a.limb[k] = plus(a.limb[k], b.limb[k]);
    return a;
}

INLINE element difference(element a, element b) {
    for (int k = 0; k < LIMBS; k++) a.limb[k] = minus(a.limb[k], b.limb[k]);
    return a;
}

/* Limb k of 2^11 p: at least 2^57, so adding it keeps a difference of wide elements from going below zero, and below
   2^63, so there is room for two wide elements above it. */
#define OFFSET(k) (((k) == 0 ? LIMB_MASK - 18 : (k) < LIMBS - 1 ? LIMB_MASK : TOP_MASK) << 11)
static const uint64_t NONE[LIMBS] = {0}, WITH_OFFSET[LIMBS] = {OFFSET(0), OFFSET(1), OFFSET(2), OFFSET(3), OFFSET(4)};

INLINE element offset(element a) {
    for (int k = 0; k < LIMBS; k++) a.limb[k] = plus(a.limb[k], every(OFFSET(k)));
    return a;
}

/* Take wide elements without offset. */
INLINE element add(element a, element b) { return carry(sum(a, b)); }
INLINE element subtract(element a, element b) { return carry(difference(offset(a), b)); }

/* The ten columns of a product as a wide element. A column holds at most ten halves below 2^52 each, so it is below 2^56.
   Column k + 5 weighs 608 times column k: the upper five are carried into digits h and added as such. The factors are
   below 2^255 + 2^221, so their product is below 2^511 and the last digit below 2^43: 608 times it has no high half. */
INLINE element fold(const lanes column[2 * LIMBS]) {
    const lanes weight = every(NEXT_LIMB);
    lanes h[LIMBS];
    element out;
    h[0] = column[LIMBS];
    for (int k = 1; k < LIMBS; k++) h[k] = plus(column[LIMBS + k], SHIFT_RIGHT(h[k - 1], LIMB_BITS));
    for (int k = 0; k < LIMBS; k++) out.limb[k] = add_low(column[k], h[k], weight);
    for (int k = 1; k < LIMBS; k++) out.limb[k] = add_high(out.limb[k], h[k - 1], weight);
    return out;
}

/* a * b + start, wide, of factors. */
INLINE element multiply_from(const uint64_t start[LIMBS], element a, element b) {
    lanes column[2 * LIMBS];
#pragma GCC unroll 10
    for (int k = 0; k < 2 * LIMBS; k++) column[k] = every(k < LIMBS ? start[k] : 0);
#pragma GCC unroll 5
    for (int i = 0; i < LIMBS; i++) {
#pragma GCC unroll 5
        for (int j = 0; j < LIMBS; j++) {
            column[i + j] = add_low(column[i + j], a.limb[i], b.limb[j]);
            column[i + j + 1] = add_high(column[i + j + 1], a.limb[i], b.limb[j]);
        }
    }
    return fold(column);
}

/* a * a + start, wide, of a factor: each mixed product once, and their sums doubled before the squares of the limbs join
   them. The limbs of start are even but for the lowest. */
INLINE element square_from(const uint64_t start[LIMBS], element a) {
    lanes column[2 * LIMBS];
#pragma GCC unroll 10
    for (int k = 0; k < 2 * LIMBS; k++) column[k] = every(k == 0 ? start[0] : k < LIMBS ? start[k] / 2 : 0);
#pragma GCC unroll 5
    for (int i = 0; i < LIMBS; i++) {
#pragma GCC unroll 5
        for (int j = i + 1; j < LIMBS; j++) {
            column[i + j] = add_low(column[i + j], a.limb[i], a.limb[j]);
            column[i + j + 1] = add_high(column[i + j + 1], a.limb[i], a.limb[j]);
        }
    }
#pragma GCC unroll 8
    for (int k = 1; k < 2 * LIMBS - 1; k++) column[k] = twice(column[k]);
#pragma GCC unroll 5
    for (int i = 0; i < LIMBS; i++) {
        column[2 * i] = add_low(column[2 * i], a.limb[i], a.limb[i]);
        column[2 * i + 1] = add_high(column[2 * i + 1], a.limb[i], a.limb[i]);
    }
    return fold(column);
}

INLINE element multiply(element a, element b) { return carry(multiply_from(NONE, a, b)); }
INLINE element square(element a) { return carry(square_from(NONE, a)); }

/* a + small * b without carry, for a wide a, a factor b and small below 2^20. */
INLINE element sum_multiple(element a, uint64_t small, element b) {
    const lanes times = every(small);
    lanes top = add_high(_mm512_setzero_si512(), b.limb[LIMBS - 1], times);
    for (int k = 0; k < LIMBS; k++) a.limb[k] = add_low(a.limb[k], b.limb[k], times);
    for (int k = 1; k < LIMBS; k++) a.limb[k] = add_high(a.limb[k], b.limb[k - 1], times);
    a.limb[0] = add_low(a.limb[0], top, every(NEXT_LIMB));
    return a;
}

INLINE element add_multiple(element a, uint64_t small, element b) { return carry(sum_multiple(a, small, b)); }

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
    for (int n = 0; n < times; n++) a = factor(square_from(NONE, a));
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

/* The one spelling below p, of a wide element or a loose one. */
static inline element canonical(element a) {
    lanes *limb = a.limb;
    a = carry(carry(a)); /* below 2^255 + 2^220, then below 2^255: where the second one carries, little is left */
    lanes beyond = every(19); /* 1 where the value is p or more */
    for (int k = 0; k < LIMBS - 1; k++) beyond = SHIFT_RIGHT(plus(limb[k], beyond), LIMB_BITS);
    beyond = SHIFT_RIGHT(plus(limb[LIMBS - 1], beyond), TOP_BITS);
    limb[0] = add_low(limb[0], beyond, every(19));
    for (int k = 1; k < LIMBS; k++) {
        limb[k] = plus(limb[k], SHIFT_RIGHT(limb[k - 1], LIMB_BITS));
        limb[k - 1] = both(limb[k - 1], every(LIMB_MASK));
    }
    limb[LIMBS - 1] = both(limb[LIMBS - 1], every(TOP_MASK));
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
    out.limb[1] = both(either(SHIFT_RIGHT(word[0], 52), SHIFT_LEFT(word[1], 12)), mask);
    out.limb[2] = both(either(SHIFT_RIGHT(word[1], 40), SHIFT_LEFT(word[2], 24)), mask);
    out.limb[3] = both(either(SHIFT_RIGHT(word[2], 28), SHIFT_LEFT(word[3], 36)), mask);
    out.limb[4] = both(SHIFT_RIGHT(word[3], 16), every(TOP_MASK));
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
    _mm512_storeu_si512(words[0], either(limb[0], SHIFT_LEFT(limb[1], 52)));
    _mm512_storeu_si512(words[1], either(SHIFT_RIGHT(limb[1], 12), SHIFT_LEFT(limb[2], 40)));
    _mm512_storeu_si512(words[2], either(SHIFT_RIGHT(limb[2], 24), SHIFT_LEFT(limb[3], 28)));
    _mm512_storeu_si512(words[3], either(SHIFT_RIGHT(limb[3], 36), SHIFT_LEFT(limb[4], 16)));
    for (int lane = 0; lane < LANES; lane++)
        for (int w = 0; w < 4; w++) memcpy(rows + ELEMENT_BYTES * lane + 8 * w, &words[w][lane], 8);
}

#endif
