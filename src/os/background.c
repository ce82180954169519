#include "os/background.h"

#include "base/arena.h"
#include "os/file.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

enum { THREAD_NICE = 5 };

struct task_list {
    struct background_task *first, **end;
};

struct background {
    pthread_t *threads;
    int thread_count;
    int event_fd;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t more_waiting, more_done;
    struct task_list waiting, done;
    bool is_over;
    int under_way; /* added and not collected: the owner's alone */
};

static void list_append(struct task_list *list, struct background_task *task)
{
    task->next = NULL;
    *list->end = task;
    list->end = &task->next;
}

static struct background_task *list_take(struct task_list *list)
{
    struct background_task *task = list->first;

    list->first = task->next;
    if (!list->first)
        list->end = &list->first;
    return task;
}

/* The next task, or NULL when there will be none. */
static struct background_task *wait_for_task(struct background *background)
{
    struct background_task *task = NULL;

    pthread_mutex_lock(&background->lock);
    while (!background->waiting.first && !background->is_over)
        pthread_cond_wait(&background->more_waiting, &background->lock);
    if (background->waiting.first)
        task = list_take(&background->waiting);
    pthread_mutex_unlock(&background->lock);
    return task;
}

static void tell_done(struct background *background, struct background_task *task)
{
    uint64_t one = 1;

    pthread_mutex_lock(&background->lock);
    list_append(&background->done, task);
    pthread_cond_signal(&background->more_done);
    /* Fails only when the counter is full: then the owner is being woken anyway. */
    if (write(background->event_fd, &one, sizeof one) < 0)
        ASSERT(errno == EAGAIN);
    pthread_mutex_unlock(&background->lock);
}

static void *work(void *context)
{
    struct background *background = context;
    struct background_task *task;

    setpriority(PRIO_PROCESS, (id_t)gettid(), getpriority(PRIO_PROCESS, 0) + THREAD_NICE);
    while ((task = wait_for_task(background))) {
        task->run(task->context);
        tell_done(background, task);
    }
    return NULL;
}

/* Signals stay with the owner's thread. */
static bool start_threads(struct background *background, int count, struct err *err)
{
    sigset_t all, before;
    int error = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (background->thread_count < count && error == 0) {
        error = pthread_create(&background->threads[background->thread_count], NULL, work, background);
        background->thread_count += error == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error == 0 || err_set(err, ERR_IO, "cannot start a thread: %s", strerror(error));
}

struct background *background_new(int thread_count, struct err *err)
{
    struct background *background = mem_alloc_zero(1, sizeof *background);
    bool ok;

    background->threads = mem_alloc_zero((size_t)thread_count, sizeof *background->threads);
    background->waiting.end = &background->waiting.first;
    background->done.end = &background->done.first;
    pthread_mutex_init(&background->lock, NULL);
    pthread_cond_init(&background->more_waiting, NULL);
    pthread_cond_init(&background->more_done, NULL);
    background->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ok = background->event_fd >= 0 || err_set(err, ERR_IO, "cannot make an event descriptor: %s", strerror(errno));
    if (ok && start_threads(background, thread_count, err))
        return background;
    background_free(background);
    return NULL;
}

int background_fd(const struct background *background)
{
    return background->event_fd;
}

static struct background_task *take_done(struct background *background)
{
    struct background_task *task = NULL;

    pthread_mutex_lock(&background->lock);
    if (background->done.first)
        task = list_take(&background->done);
    pthread_mutex_unlock(&background->lock);
    return task;
}

void background_collect(struct background *background)
{
    struct background_task *task;
    uint64_t count;

    /* Emptied before the list is looked at: what is done meanwhile wakes the owner again. */
    if (read(background->event_fd, &count, sizeof count) < 0 && errno != EAGAIN)
        return;
    while ((task = take_done(background))) {
        background->under_way--;
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
    pthread_mutex_lock(&background->lock);
    list_append(&background->waiting, task);
    pthread_cond_signal(&background->more_waiting);
    pthread_mutex_unlock(&background->lock);
}

void background_finish(struct background *background)
{
    while (background && background->under_way > 0) {
        pthread_mutex_lock(&background->lock);
        while (!background->done.first)
            pthread_cond_wait(&background->more_done, &background->lock);
        pthread_mutex_unlock(&background->lock);
        background_collect(background);
    }
}

void background_free(struct background *background)
{
    if (!background)
        return;
    background_finish(background);
    pthread_mutex_lock(&background->lock);
    background->is_over = true;
    pthread_cond_broadcast(&background->more_waiting);
    pthread_mutex_unlock(&background->lock);
    for (int i = 0; i < background->thread_count; i++)
        pthread_join(background->threads[i], NULL);
    pthread_cond_destroy(&background->more_done);
    pthread_cond_destroy(&background->more_waiting);
    pthread_mutex_destroy(&background->lock);
    fd_close(&background->event_fd);
    free(background->threads);
    free(background);
}
