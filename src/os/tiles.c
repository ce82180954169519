#include "os/tiles.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Linux: Documentation/arch/x86/xstate.rst */
enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

static bool ask(void)
{
    unsigned a, b, c, d;
    bool has_bf16 = __get_cpuid_count(7, 0, &a, &b, &c, &d) && d >> 22 & 1, has_tiles = has_bf16 && d >> 24 & 1;

    return has_tiles && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

bool tiles_allow(void)
{
    static atomic_int answer; /* 0: not asked */
    int known = atomic_load_explicit(&answer, memory_order_relaxed);

    if (!known) {
        known = ask() ? 1 : -1;
        atomic_store_explicit(&answer, known, memory_order_relaxed);
    }
    return known > 0;
}
#else
bool tiles_allow(void)
{
    return false;
}
#endif
