#include "cli/certificates.h"

#include "base/arena.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct certificates {
    struct tls *tls;
    int wake_fd;
    struct http_watch *watch;
};

static volatile sig_atomic_t hangup_fd; /* a signal handler has no argument of its own */

static void on_hangup(int number)
{
    uint64_t one = 1;
    int saved_errno = errno;

    if (write(hangup_fd, &one, sizeof one) < 0)
        errno = saved_errno; /* the counter is full: the loop is being woken anyway */
    errno = saved_errno;
}

static void on_wake(void *context, uint32_t events)
{
    struct certificates *certificates = context;
    struct err err = {0};
    uint64_t count;

    if (read(certificates->wake_fd, &count, sizeof count) < 0)
        return;
    if (tls_reload(certificates->tls, &err))
        fprintf(stderr, "attune serve: the certificate was loaded again\n");
    else
        fprintf(stderr, "attune serve: %s; the certificate loaded before stays in use\n", err.text);
}

bool certificates_open(struct certificates **opened, struct http_loop *loop, const char *certificate_path,
                       const char *key_path, struct err *err)
{
    struct certificates *certificates;
    bool ok = false;

    *opened = NULL;
    if (!certificate_path && !key_path)
        return true;
    if (!certificate_path || !key_path)
        return err_set(err, ERR_INPUT, "--tls-cert and --tls-key go together: the certificate's file and its key's");
    certificates = mem_alloc_zero(1, sizeof *certificates);
    certificates->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (certificates->wake_fd < 0) {
        err_set(err, ERR_IO, "cannot make an event descriptor: %s", strerror(errno));
        goto out;
    }
    if (!(certificates->tls = tls_new(certificate_path, key_path, err)) ||
        !(certificates->watch = http_loop_add_fd(loop, certificates->wake_fd, EPOLLIN, on_wake, certificates, err)))
        goto out;
    hangup_fd = certificates->wake_fd;
    signal(SIGHUP, on_hangup);
    *opened = certificates;
    ok = true;
out:
    if (!ok)
        certificates_close(certificates);
    return ok;
}

struct tls *certificates_tls(const struct certificates *certificates)
{
    return certificates ? certificates->tls : NULL;
}

void certificates_close(struct certificates *certificates)
{
    if (!certificates)
        return;
    if (certificates->watch)
        signal(SIGHUP, SIG_DFL);
    http_watch_remove(certificates->watch);
    if (certificates->wake_fd >= 0)
        close(certificates->wake_fd);
    tls_free(certificates->tls);
    free(certificates);
}
