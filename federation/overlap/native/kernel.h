/* What the library does, for whoever loads or tests it. Rows are 32 bytes, one after another; nothing is allocated, and
   any number of threads may call at once. The first three functions below need a processor that entente_supported says yes
   to; those about texts, at the end, need none. */
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

/* out[i] = SipHash-2-4, 16 bytes, of text i, which is texts[offsets[i] .. offsets[i + 1]], where offsets never falls. */
void entente_digest_texts(const uint8_t key[16], const uint8_t *texts, const int32_t *offsets, uint8_t *out,
                          size_t count);

/* The same of every line of a text that ends with a line, without the line's end ("\n" or "\r\n"); ends[i] is where the
   next line begins. There must be fewer than 2^32 bytes and no more than most_lines lines. Returns how many there are, or
   -1 where one is empty, longer than most_bytes, or holds a quote, a zero or another carriage return. */
int64_t entente_digest_lines(const uint8_t key[16], const uint8_t *text, size_t bytes, size_t most_bytes, uint8_t *out,
                             uint32_t *ends, size_t most_lines);

/* at[i] = where digest wanted[i] is among others, or -1; where it is there several times, at one of its places. table is
   memory to work in: as many places as the first power of two that is at least twice count, and two at least. Both counts
   are below 2^30. The digests must be such that nobody can choose their first bytes. */
void entente_find_digests(const uint8_t *wanted, size_t wanted_count, const uint8_t *among, size_t count,
                          int32_t *table, int32_t *at);

#endif
