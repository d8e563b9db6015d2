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

/* A hash table of rows, by their digests, with open places; -1 is free. Of equal rows it holds the one put in last. */
typedef struct {
    int32_t *rows;
    size_t mask;
    const uint8_t *digests;
} places;

static places emptied(int32_t *rows, size_t least, const uint8_t *digests) {
    size_t size = 2;
    while (size < 2 * least) size *= 2;
    memset(rows, 0xFF, size * sizeof *rows);
    return (places){rows, size - 1, digests};
}

/* Where a digest is in the table, or would be. */
static size_t place_of(const places *t, const uint8_t *digest) {
    size_t place = load_word(digest) & t->mask;
    while (t->rows[place] >= 0 && !same(t->digests + DIGEST_BYTES * (size_t)t->rows[place], digest))
        place = (place + 1) & t->mask;
    return place;
}

/* All of them; of equal ones the first. */
static places filled(int32_t *rows, size_t count, const uint8_t *digests) {
    const places t = emptied(rows, count, digests);
    for (size_t row = count; row-- > 0;) rows[place_of(&t, digests + DIGEST_BYTES * row)] = (int32_t)row;
    return t;
}

enum { AHEAD = 8, LOST = 64, SEVERAL = 4, NOWHERE = -1 };

/* Looks for the few that were not met on the way: all others pass by a small table of these. */
static void find_few(const uint8_t *wanted, size_t wanted_count, const uint8_t *among, size_t count, size_t few,
                     int32_t *table, int32_t *at) {
    const places t = emptied(table, few, wanted);
    for (size_t n = 0; n < wanted_count; n++) {
        if (at[n] != NOWHERE) continue;
        const size_t place = place_of(&t, wanted + DIGEST_BYTES * n);
        if (table[place] < 0)
            table[place] = (int32_t)n;
        else
            at[n] = NOWHERE - 1 - table[place]; /* where its equal is */
    }
    for (size_t row = 0; row < count; row++) {
        const int32_t n = table[place_of(&t, among + DIGEST_BYTES * row)];
        if (n >= 0 && at[n] == NOWHERE) at[n] = (int32_t)row;
    }
    for (size_t n = 0; n < wanted_count; n++)
        if (at[n] < NOWHERE) at[n] = at[NOWHERE - 1 - at[n]];
}

/* Both are mostly in one order, so one goes along the other. A table of all is filled only where the way is lost. */
void entente_find_digests(const uint8_t *wanted, size_t wanted_count, const uint8_t *among, size_t count,
                          int32_t *table, int32_t *at) {
    places all = {0};
    size_t next = 0, missed = 0, in_a_row = 0;
    for (size_t n = 0; n < wanted_count; n++) {
        const uint8_t *mine = wanted + DIGEST_BYTES * n;
        const size_t most = next + (all.rows ? 1 : AHEAD), end = most < count ? most : count;
        size_t here = next;
        while (here < end && !same(mine, among + DIGEST_BYTES * here)) here++;
        if (here < end) {
            at[n] = (int32_t)here;
            next = here + 1;
            in_a_row = 0;
            continue;
        }
        if (!all.rows && next < count && ++in_a_row > LOST) all = filled(table, count, among);
        at[n] = all.rows ? table[place_of(&all, mine)] : NOWHERE;
        if (at[n] >= 0) next = (size_t)at[n] + 1;
        missed += at[n] < 0;
    }
    if (!missed) return;
    if (!all.rows && missed <= count / SEVERAL) {
        find_few(wanted, wanted_count, among, count, missed, table, at);
        return;
    }
    if (!all.rows) all = filled(table, count, among);
    for (size_t n = 0; n < wanted_count; n++)
        if (at[n] == NOWHERE) at[n] = table[place_of(&all, wanted + DIGEST_BYTES * n)];
}
