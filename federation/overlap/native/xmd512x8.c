/* hash_to_field for eight messages at once: expand_message_xmd with SHA-512 (RFC 9380, section 5.3.1), then mod p.

   Eight messages go through SHA-512 side by side, one in each lane; a message that needs fewer blocks than its
   neighbours keeps its state while they finish. How long a message is decides how long this takes, its content does
   not. Source: FIPS 180-4, sections 4.1.3, 5.1.2, 5.3.5 and 6.4. */
#include "field25519x8.h"
#include "kernel.h"

enum { BLOCK_BYTES = 128, BLOCK_WORDS = 16, STATE_WORDS = 8, ROUNDS = 80, TAG_BYTES = 256, LENGTH_BYTES = 16 };

static const uint64_t START[STATE_WORDS] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};
static const uint64_t ROUND_CONSTANTS[ROUNDS] = {
    0x428a2f98d728ae22, 0x7137449123ef65cd, 0xb5c0fbcfec4d3b2f, 0xe9b5dba58189dbbc, 0x3956c25bf348b538,
    0x59f111f1b605d019, 0x923f82a4af194f9b, 0xab1c5ed5da6d8118, 0xd807aa98a3030242, 0x12835b0145706fbe,
    0x243185be4ee4b28c, 0x550c7dc3d5ffb4e2, 0x72be5d74f27b896f, 0x80deb1fe3b1696b1, 0x9bdc06a725c71235,
    0xc19bf174cf692694, 0xe49b69c19ef14ad2, 0xefbe4786384f25e3, 0x0fc19dc68b8cd5b5, 0x240ca1cc77ac9c65,
    0x2de92c6f592b0275, 0x4a7484aa6ea6e483, 0x5cb0a9dcbd41fbd4, 0x76f988da831153b5, 0x983e5152ee66dfab,
    0xa831c66d2db43210, 0xb00327c898fb213f, 0xbf597fc7beef0ee4, 0xc6e00bf33da88fc2, 0xd5a79147930aa725,
    0x06ca6351e003826f, 0x142929670a0e6e70, 0x27b70a8546d22ffc, 0x2e1b21385c26c926, 0x4d2c6dfc5ac42aed,
    0x53380d139d95b3df, 0x650a73548baf63de, 0x766a0abb3c77b2a8, 0x81c2c92e47edaee6, 0x92722c851482353b,
    0xa2bfe8a14cf10364, 0xa81a664bbc423001, 0xc24b8b70d0f89791, 0xc76c51a30654be30, 0xd192e819d6ef5218,
    0xd69906245565a910, 0xf40e35855771202a, 0x106aa07032bbd1b8, 0x19a4c116b8d2d0c8, 0x1e376c085141ab53,
    0x2748774cdf8eeb99, 0x34b0bcb5e19b48a8, 0x391c0cb3c5c95a63, 0x4ed8aa4ae3418acb, 0x5b9cca4f7763e373,
    0x682e6ff3d6b2b8a3, 0x748f82ee5defb2fc, 0x78a5636f43172f60, 0x84c87814a1f0ab72, 0x8cc702081a6439ec,
    0x90befffa23631e28, 0xa4506cebde82bde9, 0xbef9a3f7b2c67915, 0xc67178f2e372532b, 0xca273eceea26619c,
    0xd186b8c721c0c207, 0xeada7dd6cde0eb1e, 0xf57d4f7fee6ed178, 0x06f067aa72176fba, 0x0a637dc5a2c898a6,
    0x113f9804bef90dae, 0x1b710b35131c471b, 0x28db77f523047d84, 0x32caab7b40c72493, 0x3c9ebe0a15c9bebc,
    0x431d67c49c100d4c, 0x4cc5d4becb3e42b6, 0x597f299cfc657e2a, 0x5fcb6fab3ad6faec, 0x6c44198c4a475817,
};

#define ROTATE(a, bits) _mm512_ror_epi64((a), (bits))
INLINE lanes exclusive(lanes a, lanes b, lanes c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
INLINE lanes choice(lanes a, lanes b, lanes c) { return _mm512_ternarylogic_epi64(a, b, c, 0xCA); }
INLINE lanes majority(lanes a, lanes b, lanes c) { return _mm512_ternarylogic_epi64(a, b, c, 0xE8); }

/* One block for each lane whose bit is set; uses up the words. */
static void compress(lanes state[STATE_WORDS], lanes word[BLOCK_WORDS], __mmask8 active) {
    lanes a = state[0], b = state[1], c = state[2], d = state[3];
    lanes e = state[4], f = state[5], g = state[6], h = state[7];
#pragma GCC unroll 16
    for (int t = 0; t < ROUNDS; t++) {
        lanes w = word[t % BLOCK_WORDS];
        if (t >= BLOCK_WORDS) {
            lanes near = word[(t + 1) % BLOCK_WORDS], far = word[(t + 14) % BLOCK_WORDS];
            lanes near_sum = exclusive(ROTATE(near, 1), ROTATE(near, 8), SHIFT_RIGHT(near, 7));
            lanes far_sum = exclusive(ROTATE(far, 19), ROTATE(far, 61), SHIFT_RIGHT(far, 6));
            w = plus(plus(w, near_sum), plus(word[(t + 9) % BLOCK_WORDS], far_sum));
            word[t % BLOCK_WORDS] = w;
        }
        lanes e_sum = exclusive(ROTATE(e, 14), ROTATE(e, 18), ROTATE(e, 41));
        lanes a_sum = exclusive(ROTATE(a, 28), ROTATE(a, 34), ROTATE(a, 39));
        lanes first = plus(plus(plus(h, every(ROUND_CONSTANTS[t])), w), plus(e_sum, choice(e, f, g)));
        h = g;
        g = f;
        f = e;
        e = plus(d, first);
        d = c;
        c = b;
        b = a;
        a = plus(first, plus(a_sum, majority(b, c, d)));
    }
    const lanes done[STATE_WORDS] = {a, b, c, d, e, f, g, h};
    for (int k = 0; k < STATE_WORDS; k++) state[k] = _mm512_mask_add_epi64(state[k], active, state[k], done[k]);
}

/* Blocks of so many bytes once they are padded: a byte 0x80, zeros, and the length in bits. */
static size_t padded_blocks(size_t bytes) { return (bytes + 1 + LENGTH_BYTES + BLOCK_BYTES - 1) / BLOCK_BYTES; }

/* What of a piece, which starts at some place of a text, falls into the block that starts at another place. */
static void copy_part(uint8_t block[BLOCK_BYTES], size_t block_at, const uint8_t *piece, size_t piece_at, size_t bytes) {
    size_t from = block_at > piece_at ? block_at : piece_at;
    size_t block_end = block_at + BLOCK_BYTES, piece_end = piece_at + bytes;
    size_t to = block_end < piece_end ? block_end : piece_end;
    if (from < to) memcpy(block + (from - block_at), piece + (from - piece_at), to - from);
}

/* The length of a text in bits at the end of its last block; no text here is near 2^61 bytes. */
static void put_length(uint8_t block[BLOCK_BYTES], uint64_t bytes) {
    for (int k = 0; k < 8; k++) block[BLOCK_BYTES - 1 - k] = (uint8_t)((bytes * 8) >> (8 * k));
}

static uint64_t big_endian(const uint8_t *bytes) {
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return __builtin_bswap64(value);
}

static void load_blocks(lanes word[BLOCK_WORDS], uint8_t blocks[LANES][BLOCK_BYTES]) {
    for (int w = 0; w < BLOCK_WORDS; w++) {
        uint64_t row[LANES];
        for (int lane = 0; lane < LANES; lane++) row[lane] = big_endian(blocks[lane] + 8 * w);
        word[w] = _mm512_loadu_si512(row);
    }
}

static void load_same_block(lanes word[BLOCK_WORDS], const uint8_t block[BLOCK_BYTES]) {
    for (int w = 0; w < BLOCK_WORDS; w++) word[w] = every(big_endian(block + 8 * w));
}

/* A 384-bit number, most significant word first, mod p: what is above 2^255 counts 19 times. */
static element reduce(const lanes word[6]) {
    const lanes low[4] = {word[5], word[4], word[3], word[2]};
    const lanes high[4] = {
        either(SHIFT_LEFT(word[1], 1), SHIFT_RIGHT(word[2], 63)),
        either(SHIFT_LEFT(word[0], 1), SHIFT_RIGHT(word[1], 63)),
        SHIFT_RIGHT(word[0], 63),
        _mm512_setzero_si512(),
    };
    return add_multiple(from_words(low), 19, from_words(high));
}

/* b_0 = H(Z_pad || message || l_i_b_str || 0 || DST_prime) for up to eight messages; "after_pad" is the state after Z_pad,
   which is one block of zeros. The suffix is all that follows the message, with the padding's first byte. */
static void hash_messages(lanes state[STATE_WORDS], const lanes after_pad[STATE_WORDS], const uint8_t *const message[],
                          const size_t bytes[], size_t rows, const uint8_t *suffix, size_t suffix_bytes) {
    size_t blocks[LANES] = {0}, most = 0;
    for (size_t lane = 0; lane < rows; lane++) {
        blocks[lane] = padded_blocks(bytes[lane] + suffix_bytes - 1);
        most = blocks[lane] > most ? blocks[lane] : most;
    }
    memcpy(state, after_pad, STATE_WORDS * sizeof *state);
    for (size_t number = 0; number < most; number++) {
        uint8_t block[LANES][BLOCK_BYTES] = {{0}};
        lanes word[BLOCK_WORDS];
        unsigned active = 0;
        for (size_t lane = 0; lane < rows; lane++) {
            if (number >= blocks[lane]) continue;
            active |= 1u << lane;
            copy_part(block[lane], number * BLOCK_BYTES, message[lane], 0, bytes[lane]);
            copy_part(block[lane], number * BLOCK_BYTES, suffix, bytes[lane], suffix_bytes);
            if (number + 1 == blocks[lane]) put_length(block[lane], BLOCK_BYTES + bytes[lane] + suffix_bytes - 1);
        }
        load_blocks(word, block);
        compress(state, word, (__mmask8)active);
    }
}

/* b_1 = H(b_0 || 1 || DST_prime). The suffix is DST_prime and the padding's first byte. */
static void hash_again(lanes state[STATE_WORDS], const uint8_t *suffix, size_t suffix_bytes) {
    const size_t digest_bytes = 8 * STATE_WORDS, text_bytes = digest_bytes + 1 + suffix_bytes - 1;
    const size_t blocks = padded_blocks(text_bytes);
    const uint8_t one = 1;
    lanes next[STATE_WORDS];
    for (int k = 0; k < STATE_WORDS; k++) next[k] = every(START[k]);
    for (size_t number = 0; number < blocks; number++) {
        uint8_t block[BLOCK_BYTES] = {0};
        lanes word[BLOCK_WORDS];
        copy_part(block, number * BLOCK_BYTES, &one, digest_bytes, 1);
        copy_part(block, number * BLOCK_BYTES, suffix, digest_bytes + 1, suffix_bytes);
        if (number + 1 == blocks) put_length(block, text_bytes);
        load_same_block(word, block);
        if (number == 0) memcpy(word, state, STATE_WORDS * sizeof *state);
        compress(next, word, 0xFF);
    }
    memcpy(state, next, sizeof next);
}

void entente_hash_to_field(const uint8_t *messages, const uint64_t *ends, const uint8_t *tag, size_t tag_bytes,
                           uint8_t *elements, size_t count) {
    uint8_t suffix[3 + TAG_BYTES + 1] = {0, 48, 0}; /* l_i_b_str = 48 in two bytes, then a zero byte */
    memcpy(suffix + 3, tag, tag_bytes);
    suffix[3 + tag_bytes] = 0x80;
    lanes after_pad[STATE_WORDS], zeros[BLOCK_WORDS];
    for (int k = 0; k < STATE_WORDS; k++) after_pad[k] = every(START[k]);
    for (int w = 0; w < BLOCK_WORDS; w++) zeros[w] = _mm512_setzero_si512();
    compress(after_pad, zeros, 0xFF);
    for (size_t first = 0; first < count; first += LANES) {
        const size_t rows = count - first < LANES ? count - first : LANES;
        const uint8_t *message[LANES];
        size_t bytes[LANES];
        for (size_t lane = 0; lane < rows; lane++) {
            const uint64_t start = first + lane ? ends[first + lane - 1] : 0;
            message[lane] = messages + start;
            bytes[lane] = (size_t)(ends[first + lane] - start);
        }
        lanes state[STATE_WORDS];
        uint8_t out[LANES * ELEMENT_BYTES];
        hash_messages(state, after_pad, message, bytes, rows, suffix, 3 + tag_bytes + 1);
        hash_again(state, suffix + 3, tag_bytes + 1);
        store(out, reduce(state));
        memcpy(elements + ELEMENT_BYTES * first, out, ELEMENT_BYTES * rows);
    }
}
