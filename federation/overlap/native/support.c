/* Whether the kernel may run here. Compiled without AVX-512, so that asking is safe anywhere. */
#include <cpuid.h>

#include "kernel.h"

/* Which register states the operating system saves; needs OSXSAVE. */
static uint64_t saved_states(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

int entente_supported(void) {
    const uint32_t osxsave = 1u << 27;                                          /* leaf 1, ECX */
    const uint32_t needed = 1u << 16 | 1u << 17 | 1u << 21 | 1u << 30 | 1u << 31; /* leaf 7, EBX: F, DQ, IFMA, BW, VL */
    const uint64_t states = 0xE6; /* SSE, AVX, opmask, upper halves of zmm0-15, zmm16-31 */
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & osxsave)) return 0;
    if ((saved_states() & states) != states) return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & needed) == needed;
}
