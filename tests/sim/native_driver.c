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

int main(void) {
    const size_t counts[] = {0, 1, 7, 8, 9, 255, 256, 257, 300};
    uint8_t scalar[32];
    if (!entente_supported()) return 4;
    if (fread(scalar, 1, sizeof scalar, stdin) != sizeof scalar) return 5;
    for (size_t n = 0; n < sizeof counts / sizeof *counts; n++) run(scalar, counts[n]);
    return 0;
}
