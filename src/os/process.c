#include "os/process.h"

#include "base/arena.h"
#include "os/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static bool fail(struct err *err, const char *what)
{
    return err_set(err, errno == ESRCH || errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot %s: %s", what,
                   strerror(errno));
}

static bool open_pidfd(struct process *process, struct err *err)
{
    process->pidfd = (int)syscall(SYS_pidfd_open, (pid_t)process->identity.pid, 0);
    return process->pidfd >= 0 || fail(err, "watch a process");
}

/* Where the kernel shares the processor out by sessions (autogroup), a process's nice counts within its session alone:
 * the session has one of its own. Without autogroup there is no such file, and the process's is enough. */
static void yield_to_others(int nice)
{
    int now = getpriority(PRIO_PROCESS, 0) + nice, fd;
    char digits[2];
    size_t len = 0;
    ssize_t written;

    setpriority(PRIO_PROCESS, 0, now);
    if (now <= 0 || now > 19 || (fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC)) < 0)
        return;
    if (now >= 10)
        digits[len++] = '1';
    digits[len++] = (char)('0' + now % 10); /* "08" would be no number: the kernel reads a leading zero as octal */
    written = write(fd, digits, len);
    (void)written; /* a kernel that refuses it lets the process's own nice count */
    close(fd);
}

/* Runs in the child between fork and exec: async-signal-safe calls alone. */
_Noreturn static void become(const struct process_spawn *spawn, int go_fd, int output_fd)
{
    static const char cannot[] = "cannot start the program\n";
    sigset_t none;
    char go;

    setsid();
    if (spawn->nice)
        yield_to_others(spawn->nice);
    signal(SIGUSR1, SIG_IGN);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    dup2(output_fd, STDOUT_FILENO);
    dup2(output_fd, STDERR_FILENO);
    if (read(go_fd, &go, 1) != 1)
        _exit(125);
    if (spawn->io_fd > 0) {
        dup2(spawn->io_fd, STDIN_FILENO);
        dup2(spawn->io_fd, STDOUT_FILENO);
    }
    if (spawn->input_fd > 0)
        dup2(spawn->input_fd, STDIN_FILENO);
    if (spawn->io_fd <= 0 && spawn->input_fd <= 0) {
        close(STDIN_FILENO);
        if (open("/dev/null", O_RDONLY) != STDIN_FILENO)
            _exit(126);
    }
    if (syscall(SYS_close_range, 3u, ~0u, 0u) == 0 && (!spawn->cwd || chdir(spawn->cwd) == 0))
        execv(spawn->argv[0], (char *const *)(uintptr_t)spawn->argv);
    if (write(STDERR_FILENO, cannot, sizeof cannot - 1) < 0)
        _exit(126);
    _exit(127);
}

/* A child that we cannot follow must not stay. */
static bool abandon(struct process *process)
{
    fd_close(&process->go_fd);
    waitpid((pid_t)process->identity.pid, NULL, 0);
    fd_close(&process->pidfd);
    return false;
}

bool process_spawn(struct process *process, const struct process_spawn *spawn, struct err *err)
{
    int output_fd = file_open_append(spawn->output_path, err), go[2] = {-1, -1};
    sigset_t all, before;
    pid_t pid = -1;

    *process = PROCESS_NONE;
    if (output_fd < 0)
        return false;
    /* Signals wait until the child has said how it takes them. */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    if (pipe2(go, O_CLOEXEC) == 0)
        pid = fork();
    if (pid < 0)
        fail(err, "start a process");
    if (pid == 0) {
        close(go[1]);
        become(spawn, go[0], output_fd);
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    fd_close(&go[0]);
    fd_close(&output_fd);
    process->go_fd = go[1];
    if (pid < 0) {
        fd_close(&process->go_fd);
        return false;
    }
    process->is_child = true;
    process->identity.pid = pid;
    return (identity_of(pid, &process->identity, err) && open_pidfd(process, err)) || abandon(process);
}

bool process_go(struct process *process, struct err *err)
{
    bool ok = write(process->go_fd, "g", 1) == 1 || fail(err, "start a process");

    fd_close(&process->go_fd);
    return ok;
}

/* The pidfd is opened first: when the identity matches afterwards, it is the pidfd's. */
bool process_adopt(struct process *process, const struct process_identity *identity, struct err *err)
{
    struct process_identity now;
    struct process_end end;

    *process = PROCESS_NONE;
    process->identity = *identity;
    if (identity->pid <= 0)
        return err_set(err, ERR_NOT_FOUND, "no process was stored");
    if (!open_pidfd(process, err))
        return false;
    if (identity_of(identity->pid, &now, err) && identity_equal(&now, identity) && !process_has_ended(process, &end))
        return true;
    fd_close(&process->pidfd);
    return err_set(err, ERR_NOT_FOUND, "process %lld has ended", (long long)identity->pid);
}

bool process_signal(struct process *process, int signal, struct err *err)
{
    if (process->pidfd < 0 || syscall(SYS_pidfd_send_signal, process->pidfd, signal, NULL, 0) == 0 || errno == ESRCH)
        return true;
    return fail(err, "signal a process");
}

/* While the leader lives, or is a child that was not reaped, its pid and with it the group's number is not reused. A
 * child that was stopped before it led a group is hit by itself. */
bool process_kill_group(struct process *process, struct err *err)
{
    struct pollfd ended = {.fd = process->pidfd, .events = POLLIN};

    if (process->pidfd < 0 || (!process->is_child && poll(&ended, 1, 0) > 0))
        return true;
    if (kill(-(pid_t)process->identity.pid, SIGKILL) != 0 && errno != ESRCH)
        return fail(err, "kill a process group");
    return process_signal(process, SIGKILL, err);
}

static bool reap(struct process *process, struct process_end *end)
{
    int status;
    pid_t pid = waitpid((pid_t)process->identity.pid, &status, WNOHANG);

    if (pid != (pid_t)process->identity.pid)
        return pid < 0; /* somebody else reaped it */
    process->is_child = false;
    end->is_known = true;
    end->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    end->exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    return true;
}

bool process_has_ended(struct process *process, struct process_end *end)
{
    struct pollfd ended = {.fd = process->pidfd, .events = POLLIN};

    *end = (struct process_end){0};
    if (process->pidfd < 0)
        return true;
    if (poll(&ended, 1, 0) <= 0)
        return false;
    return !process->is_child || reap(process, end);
}

void process_close(struct process *process)
{
    fd_close(&process->go_fd);
    fd_close(&process->pidfd);
}

/* The limit holds for files; handlers that the kernel pipes cores to look at the dumpable flag alone. */
bool process_forbid_core(struct err *err)
{
    const struct rlimit none = {0, 0};

    return (setrlimit(RLIMIT_CORE, &none) == 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0) ||
           fail(err, "turn core dumps off");
}

bool process_end_with_parent(struct err *err)
{
    return prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 || fail(err, "follow the parent");
}

bool process_self_path(char *path, size_t cap, struct err *err)
{
    ssize_t len = readlink("/proc/self/exe", path, cap - 1);

    if (len < 0)
        return fail(err, "find the path of this program");
    path[len] = 0;
    return true;
}

bool host_memory_bytes(int64_t *bytes, struct err *err)
{
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);

    if (pages <= 0 || page_bytes <= 0)
        return err_set(err, ERR_IO, "cannot tell the memory of this machine");
    *bytes = (int64_t)pages * page_bytes;
    return true;
}

bool host_has_room(uint64_t bytes, int share)
{
    int64_t host_bytes;

    return host_memory_bytes(&host_bytes, NULL) && bytes <= (uint64_t)host_bytes / (uint64_t)share;
}

int process_reserve_descriptors(int wanted)
{
    struct rlimit limit = {0};

    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < (rlim_t)wanted) {
        limit.rlim_cur = limit.rlim_max < (rlim_t)wanted ? limit.rlim_max : (rlim_t)wanted;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur < INT_MAX ? (int)limit.rlim_cur : INT_MAX;
}
