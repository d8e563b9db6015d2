/* Keyed digests of texts and of the lines of a file, and where digests stand among others.

   Compiled without AVX-512. The key is secret and decides no branch and no address; texts are not secret from whoever can
   time this process. Source: Aumasson, Bernstein: SipHash, a fast short-input PRF, 2012; the variant with 128 bits of
   output is that of the authors' reference code. */
#include <string.h>

#include "kernel.h"

enum { DIGEST_BYTES = 16 };
typedef struct {
    uint64_t v[4];
} state;

static uint64_t load_word(const uint8_t *bytes) {
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word; /* x86-64 is little-endian */
}

static inline uint64_t rotate(uint64_t a, int bits) { return a << bits | a >> (64 - bits); }

static inline void rounds(uint64_t v[4], int count) {
    for (int n = 0; n < count; n++) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotate(v[1], 13) ^ v[0];
        v[3] = rotate(v[3], 16) ^ v[2];
        v[0] = rotate(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = rotate(v[1], 17) ^ v[2];
        v[3] = rotate(v[3], 21) ^ v[0];
        v[2] = rotate(v[2], 32);
    }
}

static state keyed(const uint8_t key[16]) {
    const uint64_t low = load_word(key), high = load_word(key + 8);
    return (state){{low ^ 0x736f6d6570736575, high ^ 0x646f72616e646f6d ^ 0xee, low ^ 0x6c7967656e657261,
                    high ^ 0x7465646279746573}};
}

static inline void absorb(state *s, uint64_t word) {
    s->v[3] ^= word;
    rounds(s->v, 2);
    s->v[0] ^= word;
}

/* The digest of a text of which only some bytes at its end are still to be absorbed. */
static void finish(state s, const uint8_t *rest, size_t rest_bytes, size_t bytes, uint8_t out[DIGEST_BYTES]) {
    uint64_t last = (uint64_t)bytes << 56;
    for (; rest_bytes >= 8; rest += 8, rest_bytes -= 8) absorb(&s, load_word(rest));
    for (size_t n = 0; n < rest_bytes; n++) last |= (uint64_t)rest[n] << (8 * n);
    absorb(&s, last);
    s.v[2] ^= 0xee;
    rounds(s.v, 4);
    const uint64_t first = s.v[0] ^ s.v[1] ^ s.v[2] ^ s.v[3];
    s.v[1] ^= 0xdd;
    rounds(s.v, 4);
    const uint64_t second = s.v[0] ^ s.v[1] ^ s.v[2] ^ s.v[3];
    memcpy(out, &first, sizeof first);
    memcpy(out + 8, &second, sizeof second);
}

typedef struct {
    const uint8_t *text;
    size_t bytes;
} piece;

/* Two at a time, step by step: one alone leaves most of the processor idle. */
static void digest_two(state start, piece a, piece b, uint8_t out[2 * DIGEST_BYTES]) {
    state of_a = start, of_b = start;
    const size_t common = (a.bytes < b.bytes ? a.bytes : b.bytes) / 8 * 8;
    for (size_t at = 0; at < common; at += 8) {
        absorb(&of_a, load_word(a.text + at));
        absorb(&of_b, load_word(b.text + at));
    }
    finish(of_a, a.text + common, a.bytes - common, a.bytes, out);
    finish(of_b, b.text + common, b.bytes - common, b.bytes, out + DIGEST_BYTES);
}

void entente_digest_texts(const uint8_t key[16], const uint8_t *texts, const int32_t *offsets, uint8_t *out,
                          size_t count) {
    const state start = keyed(key);
#define PIECE(n) ((piece){texts + offsets[n], (size_t)(offsets[(n) + 1] - offsets[n])})
    size_t n = 0;
    for (; n + 1 < count; n += 2) digest_two(start, PIECE(n), PIECE(n + 1), out + DIGEST_BYTES * n);
    if (n < count) finish(start, PIECE(n).text, PIECE(n).bytes, PIECE(n).bytes, out + DIGEST_BYTES * n);
#undef PIECE
}

/* A line without quotes and zeros, and with no carriage return but, perhaps, before its end; not empty. */
static int is_plain(const uint8_t *line, size_t bytes, size_t most_bytes) {
    return bytes > 0 && bytes <= most_bytes && !memchr(line, '"', bytes) && !memchr(line, 0, bytes) &&
           !memchr(line, '\r', bytes);
}

int64_t entente_digest_lines(const uint8_t key[16], const uint8_t *text, size_t bytes, size_t most_bytes, uint8_t *out,
                             uint32_t *ends, size_t most_lines) {
    const state start = keyed(key);
    piece before = {0};
    size_t lines = 0;
    for (size_t at = 0; at < bytes && lines < most_lines; lines++) {
        const uint8_t *end = memchr(text + at, '\n', bytes - at);
        if (!end) return -1;
        piece line = {text + at, (size_t)(end - text) - at};
        if (line.bytes && line.text[line.bytes - 1] == '\r') line.bytes--;
        if (!is_plain(line.text, line.bytes, most_bytes)) return -1;
        if (lines % 2) digest_two(start, before, line, out + DIGEST_BYTES * (lines - 1));
        before = line;
        at = (size_t)(end - text) + 1;
        ends[lines] = (uint32_t)at;
    }
    if (lines % 2) finish(start, before.text, before.bytes, before.bytes, out + DIGEST_BYTES * (lines - 1));
    return (int64_t)lines;
}

static int same(const uint8_t *a, const uint8_t *b) { return memcmp(a, b, DIGEST_BYTES) == 0; }

void entente_find(const uint8_t *wanted, size_t wanted_count, const uint8_t *among, size_t count, int32_t *table,
                  size_t table_size, int32_t *at) {
    int filled = 0;
    size_t next = 0; /* what comes in the same order is found without looking */
    for (size_t n = 0; n < wanted_count; n++) {
        const uint8_t *mine = wanted + DIGEST_BYTES * n;
        if (next < count && same(mine, among + DIGEST_BYTES * next)) {
            at[n] = (int32_t)next++;
            continue;
        }
        if (!filled) {
            memset(table, 0xFF, table_size * sizeof *table);
            for (size_t row = count; row-- > 0;) { /* the last one written is the first in order */
                size_t place = load_word(among + DIGEST_BYTES * row) & (table_size - 1);
                while (table[place] >= 0 && !same(among + DIGEST_BYTES * (size_t)table[place], among + DIGEST_BYTES * row))
                    place = (place + 1) & (table_size - 1);
                table[place] = (int32_t)row;
            }
            filled = 1;
        }
        size_t place = load_word(mine) & (table_size - 1);
        while (table[place] >= 0 && !same(mine, among + DIGEST_BYTES * (size_t)table[place]))
            place = (place + 1) & (table_size - 1);
        at[n] = table[place];
        if (at[n] >= 0) next = (size_t)at[n] + 1;
    }
}
