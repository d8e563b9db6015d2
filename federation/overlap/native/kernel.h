/* What the library does, for whoever loads or tests it. Rows are 32 bytes, one after another; nothing is allocated, and
   any number of threads may call at once. All functions but entente_supported need a processor that it says yes to. */
#ifndef ENTENTE_KERNEL_H
#define ENTENTE_KERNEL_H

#include <stddef.h>
#include <stdint.h>

/* 1 where this processor has AVX-512 IFMA and the operating system saves its registers, else 0. */
int entente_supported(void);

/* out[i] = X25519(scalar, points[i]) as RFC 7748, section 5 has it, for count rows; low_order[i] is 1 where the point
   has low order in any spelling, and then out[i] is zero, else 0. out may be points. */
void entente_blind(const uint8_t scalar[32], const uint8_t *points, uint8_t *out, uint8_t *low_order, size_t count);

/* out[i] = the u-coordinate of Elligator 2 (RFC 9380, section 6.7.1) of the field element elements[i], of which the high
   bit is ignored. out may be elements. */
void entente_map_to_curve(const uint8_t *elements, uint8_t *out, size_t count);

/* elements[i] = hash_to_field (RFC 9380, section 5.2, with XMD:SHA-512, L = 48, one element) of message i, which is
   messages[ends[i - 1] .. ends[i]], where ends[-1] is 0 and ends never falls.
   tag is DST_prime: the domain separation tag and, as its last byte, the tag's length; tag_bytes is at most 256. */
void entente_hash_to_field(const uint8_t *messages, const uint64_t *ends, const uint8_t *tag, size_t tag_bytes,
                           uint8_t *elements, size_t count);

#endif
