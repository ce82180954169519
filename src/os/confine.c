#include "os/confine.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
#define OUR_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OUR_ARCH AUDIT_ARCH_AARCH64
#else
#error "confine.c needs the audit name of this processor"
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_SANITIZER true
#elif defined(__has_feature)
#define HAS_SANITIZER (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define HAS_SANITIZER false
#endif

#define LOAD(field)       BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define ANSWER(action)    BPF_STMT(BPF_RET | BPF_K, action)
#define SKIP_UNLESS(what) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, what, 0, 1)
#define REFUSE            ANSWER(SECCOMP_RET_ERRNO | EACCES)

/* System calls of another numbering (32 bits, x32) are refused whole. */
static bool filter_calls(struct err *err)
{
    struct sock_filter code[] = {
        LOAD(arch),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OUR_ARCH, 1, 0),
        REFUSE,
        LOAD(nr),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1),
        REFUSE,
        SKIP_UNLESS(SYS_socket),
        REFUSE,
        SKIP_UNLESS(SYS_execve),
        REFUSE,
        SKIP_UNLESS(SYS_execveat),
        REFUSE,
        ANSWER(SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0)
        return true;
    return errno == EINVAL || errno == ENOSYS ||
           err_set(err, ERR_IO, "cannot filter system calls: %s", strerror(errno));
}

bool confine_process(int64_t memory_bytes, struct err *err)
{
    struct rlimit limit = {(rlim_t)memory_bytes, (rlim_t)memory_bytes};

    if (memory_bytes > 0 && !HAS_SANITIZER && setrlimit(RLIMIT_DATA, &limit) != 0)
        return err_set(err, ERR_IO, "cannot bound memory: %s", strerror(errno));
    return filter_calls(err);
}
