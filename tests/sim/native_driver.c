/* Runs the kernel over buffers of exactly the right size, for a sanitizer to watch. Reads the scalar from standard input;
   for each number of rows prints one line of JSON with the blinded points of the messages "", "m", "mm", ... */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"

static void *reserve(size_t bytes) {
    void *memory = malloc(bytes);
    if (memory == NULL && bytes > 0) exit(2);
    return memory;
}

static void run(const uint8_t scalar[32], size_t count) {
    const uint8_t tag[4] = {'d', 's', 't', 3};
    uint64_t *ends = reserve(count * sizeof *ends);
    size_t bytes = 0;
    for (size_t row = 0; row < count; row++) ends[row] = bytes += row;
    uint8_t *messages = reserve(bytes), *rows = reserve(32 * count), *low_order = reserve(count);
    for (size_t at = 0; at < bytes; at++) messages[at] = 'm';
    entente_hash_to_field(messages, ends, tag, sizeof tag, rows, count);
    entente_map_to_curve(rows, rows, count);
    entente_blind(scalar, rows, rows, low_order, count);
    printf("{\"count\": %zu, \"points\": \"", count);
    for (size_t at = 0; at < 32 * count; at++) printf("%02x", rows[at]);
    printf("\"}\n");
    for (size_t row = 0; row < count; row++)
        if (low_order[row]) exit(3);
    free(low_order);
    free(rows);
    free(messages);
    free(ends);
}

/* The lines of a text with one line for each row, "m" repeated as before and a number of it in front; every second one of
   their digests is looked for among all, and one that is not there. */
static void run_texts(const uint8_t key[16], size_t count) {
    size_t bytes = 0, table_size = 2;
    while (table_size < 2 * count) table_size *= 2;
    for (size_t row = 0; row < count; row++) bytes += row + 2;
    uint8_t *text = reserve(bytes), *digests = reserve(16 * count), *again = reserve(16 * count);
    uint32_t *ends = reserve(count * sizeof *ends);
    int32_t *offsets = reserve((count + 1) * sizeof *offsets), *table = reserve(table_size * sizeof *table);
    for (size_t row = 0, at = 0; row < count; row++, at++) {
        text[at++] = 'a';
        for (size_t n = 0; n < row; n++) text[at++] = 'm';
        text[at] = '\n';
    }
    if (entente_digest_lines(key, text, bytes, count + 1, digests, ends, count) != (int64_t)count) exit(6);
    if (count > 1 && entente_digest_lines(key, text, bytes, count - 1, digests, ends, count) != -1) exit(7);
    if (count && entente_digest_lines(key, text, bytes - 1, count + 1, digests, ends, count) != -1) exit(8);
    uint8_t *packed = reserve(bytes - count);
    offsets[0] = 0;
    for (size_t row = 0; row < count; row++) {
        memcpy(packed + offsets[row], text + (row ? ends[row - 1] : 0), row + 1);
        offsets[row + 1] = offsets[row] + (int32_t)row + 1;
    }
    entente_digest_texts(key, packed, offsets, again, count);
    if (count && memcmp(digests, again, 16 * count)) exit(9);
    const size_t half = (count + 1) / 2;
    int32_t *at = reserve((half + 1) * sizeof *at);
    uint8_t *wanted = reserve(16 * (half + 1));
    for (size_t n = 0; n < half; n++) memcpy(wanted + 16 * n, digests + 16 * (2 * (half - 1 - n)), 16);
    memset(wanted + 16 * half, 0, 16);
    entente_find_digests(wanted, half + 1, digests, count, table, at);
    for (size_t n = 0; n < half; n++)
        if ((size_t)at[n] != 2 * (half - 1 - n)) exit(10);
    if (at[half] != -1) exit(11);
    printf("{\"digests\": \"");
    for (size_t n = 0; n < 16 * count; n++) printf("%02x", digests[n]);
    printf("\"}\n");
    void *all[] = {text, digests, again, ends, offsets, table, packed, at, wanted};
    for (size_t n = 0; n < sizeof all / sizeof *all; n++) free(all[n]);
}

int main(void) {
    const size_t counts[] = {0, 1, 7, 8, 9, 255, 256, 257, 300};
    uint8_t scalar[32];
    if (!entente_supported()) return 4;
    if (fread(scalar, 1, sizeof scalar, stdin) != sizeof scalar) return 5;
    for (size_t n = 0; n < sizeof counts / sizeof *counts; n++) run(scalar, counts[n]);
    for (size_t n = 0; n < sizeof counts / sizeof *counts; n++) run_texts(scalar, counts[n]);
    return 0;
}
