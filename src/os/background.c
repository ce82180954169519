#include "os/background.h"

#include "base/arena.h"
#include "os/file.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

enum { THREAD_NICE = 5 };

/* The queue is the owner's alone: it gives each idle thread its next task. So nothing is locked, and the owner never
 * waits for a thread that lost the processor while it held a lock. */
struct worker {
    struct background *background;
    pthread_t thread;
    sem_t wake;
    struct background_task *task; /* NULL: idle; woken without one: over */
    atomic_bool is_done;
};

struct background {
    struct worker *workers;
    int worker_count;
    int event_fd;
    struct background_task *first, **end; /* waiting for a thread */
    int under_way;                        /* added and not collected */
};

static void *work(void *context)
{
    struct worker *worker = context;
    uint64_t one = 1;

    setpriority(PRIO_PROCESS, (id_t)gettid(), getpriority(PRIO_PROCESS, 0) + THREAD_NICE);
    for (;;) {
        while (sem_wait(&worker->wake) != 0)
            continue;
        if (!worker->task)
            return NULL;
        worker->task->run(worker->task->context);
        atomic_store(&worker->is_done, true);
        /* Fails only when the counter is full: then the owner is being woken anyway. */
        if (write(worker->background->event_fd, &one, sizeof one) < 0)
            ASSERT(errno == EAGAIN);
    }
}

/* Signals stay with the owner's thread. */
static bool start_workers(struct background *background, int count, struct err *err)
{
    sigset_t all, before;
    int error = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (background->worker_count < count && error == 0) {
        struct worker *worker = &background->workers[background->worker_count];

        worker->background = background;
        sem_init(&worker->wake, 0, 0);
        error = pthread_create(&worker->thread, NULL, work, worker);
        background->worker_count += error == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error == 0 || err_set(err, ERR_IO, "cannot start a thread: %s", strerror(error));
}

struct background *background_new(int thread_count, struct err *err)
{
    struct background *background = mem_alloc_zero(1, sizeof *background);
    bool ok;

    background->workers = mem_alloc_zero((size_t)thread_count, sizeof *background->workers);
    background->end = &background->first;
    background->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ok = background->event_fd >= 0 || err_set(err, ERR_IO, "cannot make an event descriptor: %s", strerror(errno));
    if (ok && start_workers(background, thread_count, err))
        return background;
    background_free(background);
    return NULL;
}

int background_fd(const struct background *background)
{
    return background->event_fd;
}

static void give_out(struct background *background)
{
    for (int i = 0; i < background->worker_count && background->first; i++) {
        struct worker *worker = &background->workers[i];

        if (worker->task)
            continue;
        worker->task = background->first;
        background->first = worker->task->next;
        if (!background->first)
            background->end = &background->first;
        sem_post(&worker->wake);
    }
}

void background_collect(struct background *background)
{
    uint64_t count;

    /* Emptied before the threads are looked at: who is done meanwhile wakes the owner again. */
    if (read(background->event_fd, &count, sizeof count) < 0 && errno != EAGAIN)
        return;
    for (int i = 0; i < background->worker_count; i++) {
        struct worker *worker = &background->workers[i];
        struct background_task *task = worker->task;

        if (!task || !atomic_exchange(&worker->is_done, false))
            continue;
        worker->task = NULL;
        background->under_way--;
        give_out(background);
        task->done(task->context);
    }
}

void background_add(struct background *background, struct background_task *task)
{
    if (!background) {
        task->run(task->context);
        task->done(task->context);
        return;
    }
    background->under_way++;
    task->next = NULL;
    *background->end = task;
    background->end = &task->next;
    give_out(background);
}

void background_finish(struct background *background)
{
    while (background && background->under_way > 0) {
        struct pollfd ready = {.fd = background->event_fd, .events = POLLIN};

        poll(&ready, 1, -1);
        background_collect(background);
    }
}

void background_free(struct background *background)
{
    if (!background)
        return;
    background_finish(background);
    for (int i = 0; i < background->worker_count; i++) {
        struct worker *worker = &background->workers[i];

        sem_post(&worker->wake);
        pthread_join(worker->thread, NULL);
        sem_destroy(&worker->wake);
    }
    fd_close(&background->event_fd);
    free(background->workers);
    free(background);
}
