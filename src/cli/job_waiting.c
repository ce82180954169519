#include "cli/job_waiting.h"

#include <stdlib.h>
#include <sys/epoll.h>

static int64_t now(void *context)
{
    return http_loop_now_ms(((struct job_waiting *)context)->loop);
}

struct watched {
    struct http_watch *watch;
    void (*on_ready)(void *arg);
    void *arg;
};

static void on_event(void *context, uint32_t events)
{
    struct watched *watch = context;

    (void)events;
    watch->on_ready(watch->arg);
}

static void *watch_fd(void *context, int fd, void (*on_ready)(void *arg), void *arg)
{
    struct watched *watch = mem_alloc_zero(1, sizeof *watch);

    *watch = (struct watched){.on_ready = on_ready, .arg = arg};
    watch->watch = http_loop_add_fd(((struct job_waiting *)context)->loop, fd, EPOLLIN, on_event, watch, NULL);
    if (watch->watch)
        return watch;
    free(watch);
    return NULL;
}

static void unwatch_fd(void *context, void *handle)
{
    struct watched *watch = handle;

    (void)context;
    http_watch_remove(watch->watch);
    free(watch);
}

static void on_due(void *context)
{
    job_manager_tick(((struct job_waiting *)context)->manager);
}

static void set_deadline(void *context, int64_t at_ms)
{
    http_timer_set(((struct job_waiting *)context)->timer, at_ms);
}

struct job_loop job_waiting_begin(struct job_waiting *waiting, struct http_loop *loop)
{
    *waiting = (struct job_waiting){.loop = loop, .timer = http_loop_add_timer(loop, INT64_MAX, on_due, waiting)};
    return (struct job_loop){.context = waiting,
                             .now_ms = now,
                             .watch = watch_fd,
                             .unwatch = unwatch_fd,
                             .set_deadline = set_deadline};
}

void job_waiting_end(struct job_waiting *waiting)
{
    http_timer_remove(waiting->timer);
}
