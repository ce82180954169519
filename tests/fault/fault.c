/* The calls are declared without the large-file aliases: both names are defined here. */
#undef _FILE_OFFSET_BITS
#include "fault.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RULES_MAX = 4, TEXT_MAX = 512 };
enum action { ACT_ERROR, ACT_SHORT, ACT_SKIP, ACT_KILL, ACT_STOP, ACT_COUNT };

struct rule {
    char calls[TEXT_MAX], path[TEXT_MAX], data[64], mark[TEXT_MAX];
    unsigned long nth;
    bool and_all_behind, after;
    enum action action;
    int error;
    atomic_ulong count;
    atomic_bool has_fired;
};

static struct rule rules[RULES_MAX];
static int rule_count;

static const struct {
    const char *name;
    int number;
} errors[] = {{"EIO", EIO},       {"ENOSPC", ENOSPC}, {"ENOMEM", ENOMEM}, {"EMFILE", EMFILE},
              {"EACCES", EACCES}, {"EAGAIN", EAGAIN}, {"EINTR", EINTR}};

_Noreturn static void bad_rule(const char *what)
{
    fprintf(stderr, "fault: %s\n", what);
    abort();
}

static void take_action(struct rule *rule, const char *value)
{
    static const char *const names[] = {
        [ACT_SHORT] = "short", [ACT_SKIP] = "skip", [ACT_KILL] = "kill", [ACT_STOP] = "stop", [ACT_COUNT] = "count"};

    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (strcmp(value, errors[i].name) == 0) {
            rule->action = ACT_ERROR;
            rule->error = errors[i].number;
            return;
        }
    for (int i = ACT_SHORT; i <= ACT_COUNT; i++)
        if (strcmp(value, names[i]) == 0) {
            rule->action = i;
            return;
        }
    bad_rule(value);
}

static bool is_our_program(const char *name)
{
    char line[TEXT_MAX] = "";
    int fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    long got = syscall(SYS_read, fd, line, sizeof line - 1);

    syscall(SYS_close, fd);
    return got > 0 && strcmp(line + strlen(line) + 1, name) == 0;
}

static void take_word(struct rule *rule, const char *key, const char *value, bool *is_ours)
{
    if (strlen(value) >= sizeof rule->data && strcmp(key, "data") == 0)
        bad_rule("data is too long");
    if (strcmp(key, "call") == 0)
        snprintf(rule->calls, sizeof rule->calls, ",%s,", value);
    else if (strcmp(key, "path") == 0)
        snprintf(rule->path, sizeof rule->path, "%s", value);
    else if (strcmp(key, "data") == 0)
        snprintf(rule->data, sizeof rule->data, "%s", value);
    else if (strcmp(key, "mark") == 0)
        snprintf(rule->mark, sizeof rule->mark, "%s", value);
    else if (strcmp(key, "nth") == 0) {
        rule->nth = strtoul(value, NULL, 10);
        rule->and_all_behind = strchr(value, '+') != NULL;
    } else if (strcmp(key, "do") == 0)
        take_action(rule, value);
    else if (strcmp(key, "when") == 0)
        rule->after = strcmp(value, "after") == 0;
    else if (strcmp(key, "program") == 0)
        *is_ours = is_our_program(value);
    else
        bad_rule(key);
}

static void take_rule(char *text)
{
    struct rule *rule = &rules[rule_count];
    bool is_ours = true;
    char *rest, *word;

    *rule = (struct rule){.nth = 1};
    for (word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        char *equals = strchr(word, '=');

        if (!equals)
            bad_rule(word);
        *equals = 0;
        take_word(rule, word, equals + 1, &is_ours);
    }
    rule_count += is_ours && rule->calls[0];
}

void fault_set(const char *rule)
{
    char text[4 * TEXT_MAX];

    rule_count = 0;
    if (!rule)
        return;
    snprintf(text, sizeof text, "%s", rule);
    take_rule(text);
}

unsigned long fault_count(void)
{
    return rules[0].count;
}

bool fault_has_fired(void)
{
    return rules[0].has_fired;
}

__attribute__((constructor)) static void take_environment(void)
{
    const char *given = getenv("FAULT_RULES");
    char text[RULES_MAX * 2 * TEXT_MAX], *rest, *rule;

    if (!given)
        return;
    snprintf(text, sizeof text, "%s", given);
    for (rule = strtok_r(text, ";", &rest); rule && rule_count < RULES_MAX; rule = strtok_r(NULL, ";", &rest))
        take_rule(rule);
}

/* A run that only counts writes down how many there were. */
__attribute__((destructor)) static void tell_counts(void)
{
    for (int i = 0; i < rule_count; i++) {
        char text[24];
        int len = snprintf(text, sizeof text, "%lu\n", (unsigned long)rules[i].count);

        if (rules[i].action != ACT_COUNT || !rules[i].mark[0])
            continue;
        long fd = syscall(SYS_openat, AT_FDCWD, rules[i].mark, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        syscall(SYS_write, fd, text, (size_t)len);
        syscall(SYS_close, fd);
    }
}

/* --- the decision --- */

struct call {
    const char *name, *path;
    int fd; /* when there is no path */
    const void *data;
    size_t bytes;
};

static bool path_matches(const struct rule *rule, const struct call *call)
{
    char link[64], path[4096] = "";

    if (!rule->path[0])
        return true;
    if (call->path)
        return fnmatch(rule->path, call->path, 0) == 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", call->fd);
    long len = syscall(SYS_readlink, link, path, sizeof path - 1);
    return len > 0 && fnmatch(rule->path, path, 0) == 0;
}

static bool is_in(const char *list, const char *name)
{
    char key[40];

    snprintf(key, sizeof key, ",%s,", name);
    return strstr(list, key) || (strcmp(list, ",any,") == 0 && strcmp(name, "memory") != 0);
}

static bool matches(const struct rule *rule, const struct call *call)
{
    size_t len = strlen(rule->data);

    return is_in(rule->calls, call->name) && path_matches(rule, call) &&
           (len == 0 || (call->bytes >= len && memcmp(call->data, rule->data, len) == 0));
}

/* False when another process has left it already. */
static bool leave_mark(struct rule *rule)
{
    long fd;

    if (rule->has_fired || !rule->mark[0])
        return true;
    fd = syscall(SYS_openat, AT_FDCWD, rule->mark, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    syscall(SYS_close, fd);
    return fd >= 0;
}

static bool leave_mark_at(struct rule *rule, unsigned long number)
{
    bool applies = rule->and_all_behind ? number >= rule->nth : number == rule->nth;

    applies = applies && leave_mark(rule);
    rule->has_fired |= applies;
    return applies;
}

/* The rule that this call is to follow; NULL: none. */
static struct rule *rule_for(const struct call *call)
{
    int before = errno;
    struct rule *found = NULL;

    for (int i = 0; i < rule_count && !found; i++) {
        if (!matches(&rules[i], call))
            continue;
        unsigned long number = ++rules[i].count;
        if (rules[i].action != ACT_COUNT && leave_mark_at(&rules[i], number))
            found = &rules[i];
    }
    errno = before;
    return found;
}

static void act(struct rule *rule)
{
    if (rule->action == ACT_KILL || rule->action == ACT_STOP)
        syscall(SYS_kill, getpid(), rule->action == ACT_KILL ? SIGKILL : SIGSTOP);
}

/* Whether the call is not made; its result is 0 or -1 then. */
static bool is_left_out(struct rule *rule, long *result)
{
    if (!rule || rule->after)
        return false;
    act(rule);
    *result = rule->action == ACT_ERROR ? -1 : 0;
    if (rule->action == ACT_ERROR)
        errno = rule->error;
    return rule->action == ACT_ERROR || rule->action == ACT_SKIP;
}

static long finish(struct rule *rule, long result)
{
    int before = errno;

    if (!rule || !rule->after)
        return result;
    act(rule);
    errno = before;
    if (rule->action != ACT_ERROR)
        return result;
    errno = rule->error;
    return -1;
}

/* What the kernel gives, unless a rule has it otherwise. */
static long follow(struct call call, long number, long a, long b, long c, long d)
{
    struct rule *rule = rule_for(&call);
    long result;

    return is_left_out(rule, &result) ? result : finish(rule, syscall(number, a, b, c, d));
}

#define AT_PATH(name_, path_) ((struct call){.name = name_, .path = path_})
#define AT_FD(name_, fd_)     ((struct call){.name = name_, .fd = fd_})

/* --- the calls --- */

static int open_at(const char *path, int flags, mode_t mode)
{
    const char *name = flags & O_CREAT ? "create" : "open";

    return (int)follow(AT_PATH(name, path), SYS_openat, AT_FDCWD, (long)path, flags, mode);
}

#define DEFINE_OPEN(name)                                                                                              \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        mode_t mode = 0;                                                                                               \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                                           \
            va_list args;                                                                                              \
            va_start(args, flags);                                                                                     \
            mode = va_arg(args, mode_t);                                                                               \
            va_end(args);                                                                                              \
        }                                                                                                              \
        return open_at(path, flags, mode);                                                                             \
    }
DEFINE_OPEN(open)
DEFINE_OPEN(open64)

static size_t cut(struct rule *rule, size_t bytes)
{
    return rule && rule->action == ACT_SHORT ? (bytes + 1) / 2 : bytes;
}

ssize_t write(int fd, const void *at, size_t bytes)
{
    struct call call = {.name = "write", .fd = fd, .data = at, .bytes = bytes};
    struct rule *rule = rule_for(&call);
    long result;

    return is_left_out(rule, &result) ? result : finish(rule, syscall(SYS_write, fd, at, cut(rule, bytes)));
}

static ssize_t write_at(int fd, const void *at, size_t bytes, int64_t offset)
{
    struct call call = {.name = "pwrite", .fd = fd, .data = at, .bytes = bytes};
    struct rule *rule = rule_for(&call);
    long result;

    return is_left_out(rule, &result) ? result : finish(rule, syscall(SYS_pwrite64, fd, at, cut(rule, bytes), offset));
}

ssize_t pwrite(int fd, const void *at, size_t bytes, off_t offset)
{
    return write_at(fd, at, bytes, offset);
}

ssize_t pwrite64(int fd, const void *at, size_t bytes, off64_t offset)
{
    return write_at(fd, at, bytes, offset);
}

static ssize_t read_at(int fd, void *at, size_t bytes, int64_t offset)
{
    return follow(AT_FD("pread", fd), SYS_pread64, fd, (long)at, (long)bytes, offset);
}

ssize_t pread(int fd, void *at, size_t bytes, off_t offset)
{
    return read_at(fd, at, bytes, offset);
}

ssize_t pread64(int fd, void *at, size_t bytes, off64_t offset)
{
    return read_at(fd, at, bytes, offset);
}

int fsync(int fd)
{
    return (int)follow(AT_FD("fsync", fd), SYS_fsync, fd, 0, 0, 0);
}

int fdatasync(int fd)
{
    return (int)follow(AT_FD("fdatasync", fd), SYS_fdatasync, fd, 0, 0, 0);
}

int ftruncate(int fd, off_t bytes)
{
    return (int)follow(AT_FD("ftruncate", fd), SYS_ftruncate, fd, bytes, 0, 0);
}

int ftruncate64(int fd, off64_t bytes)
{
    return (int)follow(AT_FD("ftruncate", fd), SYS_ftruncate, fd, bytes, 0, 0);
}

int rename(const char *from, const char *to)
{
    return (int)follow(AT_PATH("rename", to), SYS_rename, (long)from, (long)to, 0, 0);
}

int link(const char *from, const char *to)
{
    return (int)follow(AT_PATH("link", to), SYS_link, (long)from, (long)to, 0, 0);
}

int unlink(const char *path)
{
    return (int)follow(AT_PATH("unlink", path), SYS_unlink, (long)path, 0, 0, 0);
}

int mkdir(const char *path, mode_t mode)
{
    return (int)follow(AT_PATH("mkdir", path), SYS_mkdir, (long)path, mode, 0, 0);
}

int rmdir(const char *path)
{
    return (int)follow(AT_PATH("rmdir", path), SYS_rmdir, (long)path, 0, 0, 0);
}

int pipe2(int fds[2], int flags)
{
    return (int)follow(AT_PATH("pipe", ""), SYS_pipe2, (long)fds, flags, 0, 0);
}

/* In the parent; the child's own calls are not looked at before it has become another program. */
pid_t fork(void)
{
    pid_t (*real)(void) = (pid_t(*)(void))(uintptr_t)dlsym(RTLD_NEXT, "fork");
    struct call call = AT_PATH("fork", "");
    struct rule *rule = rule_for(&call);
    long result;
    pid_t pid;

    if (is_left_out(rule, &result))
        return (pid_t)result;
    pid = real();
    if (pid == 0)
        rule_count = 0;
    return pid == 0 ? 0 : (pid_t)finish(rule, pid);
}

#ifdef FAULT_MEMORY
/* --- memory --- */

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *at, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

static bool memory_is_out(void)
{
    struct call call = AT_PATH("memory", "");
    long result;

    return rule_count > 0 && is_left_out(rule_for(&call), &result);
}

void *malloc(size_t bytes)
{
    return memory_is_out() ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    return memory_is_out() ? NULL : __libc_calloc(count, bytes);
}

void *realloc(void *at, size_t bytes)
{
    return memory_is_out() ? NULL : __libc_realloc(at, bytes);
}

void *memalign(size_t alignment, size_t bytes)
{
    return memory_is_out() ? NULL : __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    return memalign(alignment, bytes);
}

int posix_memalign(void **at, size_t alignment, size_t bytes)
{
    *at = memalign(alignment, bytes);
    return *at ? 0 : ENOMEM;
}
#endif
