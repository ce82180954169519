#include "http/loop.h"

#include "base/arena.h"
#include "os/clock.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { EVENTS_PER_ROUND = 64 };

struct http_watch {
    struct http_loop *loop;
    struct http_watch *next, *previous; /* all watches; of removed ones only next, until the round is over */
    int fd;
    uint32_t events;
    bool is_removed;
    void (*on_ready)(void *context, uint32_t events);
    void *context;
};

struct http_timer {
    struct http_loop *loop;
    struct http_timer *next, *previous; /* all timers */
    int64_t at_ms;
    uint64_t order; /* of setting: equal times are called in this order */
    size_t place;   /* in the heap */
    bool is_set;
    void (*on_due)(void *context);
    void *context;
};

struct http_loop {
    struct http_clock clock;
    int epoll_fd, wake_fd;
    atomic_bool is_stopped; /* lock-free, so a signal handler may set it */
    struct http_watch *watches, *removed;
    struct http_timer *timers;
    struct http_timer **heap;
    size_t heap_count, heap_cap;
    uint64_t order;
    struct http_loop_turns turns;
};

static int64_t monotonic_now(void *context)
{
    return clock_monotonic_ms();
}

struct http_loop *http_loop_new(const struct http_clock *clock, struct err *err)
{
    struct http_loop *loop = mem_alloc_zero(1, sizeof *loop);
    struct epoll_event event = {.events = EPOLLIN};

    loop->clock = clock ? *clock : (struct http_clock){.now_ms = monotonic_now};
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->epoll_fd < 0 || loop->wake_fd < 0 ||
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &event) != 0) {
        err_set(err, ERR_IO, "cannot make the event loop: %s", strerror(errno));
        http_loop_free(loop);
        return NULL;
    }
    return loop;
}

static void free_removed(struct http_loop *loop)
{
    while (loop->removed) {
        struct http_watch *watch = loop->removed;
        loop->removed = watch->next;
        free(watch);
    }
}

void http_loop_free(struct http_loop *loop)
{
    if (!loop)
        return;
    while (loop->watches)
        http_watch_remove(loop->watches);
    while (loop->timers)
        http_timer_remove(loop->timers);
    free_removed(loop);
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    free(loop->heap);
    free(loop);
}

int64_t http_loop_now_ms(const struct http_loop *loop)
{
    return loop->clock.now_ms(loop->clock.context);
}

/* Watches. */

struct http_watch *http_loop_add_fd(struct http_loop *loop, int fd, uint32_t events,
                                    void (*on_ready)(void *context, uint32_t events), void *context, struct err *err)
{
    struct http_watch *watch = mem_alloc_zero(1, sizeof *watch);
    struct epoll_event event = {.events = events, .data.ptr = watch};

    *watch = (struct http_watch){.loop = loop, .fd = fd, .events = events, .on_ready = on_ready, .context = context};
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        err_set(err, ERR_IO, "cannot watch a descriptor: %s", strerror(errno));
        free(watch);
        return NULL;
    }
    watch->next = loop->watches;
    if (watch->next)
        watch->next->previous = watch;
    loop->watches = watch;
    return watch;
}

void http_watch_set(struct http_watch *watch, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};

    if (watch->events == events || watch->is_removed)
        return;
    watch->events = events;
    ASSERT(epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event) == 0);
}

void http_watch_remove(struct http_watch *watch)
{
    struct http_loop *loop;

    if (!watch)
        return;
    loop = watch->loop;
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    if (watch->next)
        watch->next->previous = watch->previous;
    if (watch->previous)
        watch->previous->next = watch->next;
    else
        loop->watches = watch->next;
    /* Its event may already be in the round's list, so the memory stays until the round is over. */
    watch->is_removed = true;
    watch->next = loop->removed;
    loop->removed = watch;
}

/* Timers: a binary heap whose members know their place. */

static bool is_earlier(const struct http_timer *a, const struct http_timer *b)
{
    return a->at_ms != b->at_ms ? a->at_ms < b->at_ms : a->order < b->order;
}

static void heap_put(struct http_loop *loop, size_t place, struct http_timer *timer)
{
    loop->heap[place] = timer;
    timer->place = place;
}

static void heap_up(struct http_loop *loop, size_t place, struct http_timer *timer)
{
    while (place > 0 && is_earlier(timer, loop->heap[(place - 1) / 2])) {
        heap_put(loop, place, loop->heap[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    heap_put(loop, place, timer);
}

static void heap_down(struct http_loop *loop, size_t place, struct http_timer *timer)
{
    for (;;) {
        size_t child = 2 * place + 1;
        if (child >= loop->heap_count)
            break;
        if (child + 1 < loop->heap_count && is_earlier(loop->heap[child + 1], loop->heap[child]))
            child++;
        if (!is_earlier(loop->heap[child], timer))
            break;
        heap_put(loop, place, loop->heap[child]);
        place = child;
    }
    heap_put(loop, place, timer);
}

static void heap_add(struct http_timer *timer)
{
    struct http_loop *loop = timer->loop;

    if (loop->heap_count == loop->heap_cap) {
        loop->heap_cap = loop->heap_cap ? 2 * loop->heap_cap : 16;
        loop->heap = mem_resize(loop->heap, loop->heap_cap * sizeof(struct http_timer *));
    }
    timer->is_set = true;
    timer->order = loop->order++;
    heap_up(loop, loop->heap_count++, timer);
}

static void heap_take(struct http_timer *timer)
{
    struct http_loop *loop = timer->loop;
    size_t place = timer->place;
    struct http_timer *last;

    if (!timer->is_set)
        return;
    timer->is_set = false;
    last = loop->heap[--loop->heap_count];
    if (last == timer)
        return;
    if (place > 0 && is_earlier(last, loop->heap[(place - 1) / 2]))
        heap_up(loop, place, last);
    else
        heap_down(loop, place, last);
}

struct http_timer *http_loop_add_timer(struct http_loop *loop, int64_t at_ms, void (*on_due)(void *context),
                                       void *context)
{
    struct http_timer *timer = mem_alloc_zero(1, sizeof *timer);

    timer->loop = loop;
    timer->on_due = on_due;
    timer->context = context;
    timer->next = loop->timers;
    if (timer->next)
        timer->next->previous = timer;
    loop->timers = timer;
    http_timer_set(timer, at_ms);
    return timer;
}

void http_timer_set(struct http_timer *timer, int64_t at_ms)
{
    if (timer->is_set && timer->at_ms == at_ms)
        return;
    heap_take(timer);
    timer->at_ms = at_ms;
    if (at_ms != INT64_MAX)
        heap_add(timer);
}

void http_timer_remove(struct http_timer *timer)
{
    if (!timer)
        return;
    heap_take(timer);
    if (timer->next)
        timer->next->previous = timer->previous;
    if (timer->previous)
        timer->previous->next = timer->next;
    else
        timer->loop->timers = timer->next;
    free(timer);
}

/* Rounds. */

static int wait_bound(const struct http_loop *loop, int64_t wait_ms)
{
    if (loop->heap_count > 0) {
        int64_t due_ms = loop->heap[0]->at_ms - http_loop_now_ms(loop);
        due_ms = due_ms > 0 ? due_ms : 0;
        wait_ms = wait_ms < 0 || due_ms < wait_ms ? due_ms : wait_ms;
    }
    return wait_ms > INT32_MAX ? INT32_MAX : (int)wait_ms;
}

static void call_ready(struct http_loop *loop, const struct epoll_event *events, int count)
{
    for (int i = 0; i < count; i++) {
        struct http_watch *watch = events[i].data.ptr;
        uint64_t wakes;

        if (watch && !watch->is_removed)
            watch->on_ready(watch->context, events[i].events);
        else if (!watch && read(loop->wake_fd, &wakes, sizeof wakes) < 0)
            continue;
    }
}

/* Timers set during the calls wait for the next round, so that one which sets itself to now cannot starve the rest. */
static void call_due(struct http_loop *loop)
{
    int64_t now_ms = http_loop_now_ms(loop);
    uint64_t order_end = loop->order;

    while (loop->heap_count > 0 && loop->heap[0]->at_ms <= now_ms && loop->heap[0]->order < order_end) {
        struct http_timer *timer = loop->heap[0];
        heap_take(timer);
        timer->on_due(timer->context);
    }
}

static void count_turn(struct http_loop *loop, int64_t began_ms)
{
    int64_t took_ms = http_loop_now_ms(loop) - began_ms;

    loop->turns.count++;
    loop->turns.slow_count += took_ms > HTTP_SLOW_TURN_MS;
    if (took_ms > loop->turns.longest_ms)
        loop->turns.longest_ms = took_ms;
}

struct http_loop_turns http_loop_turns(const struct http_loop *loop)
{
    return loop->turns;
}

bool http_loop_step(struct http_loop *loop, int64_t wait_ms, struct err *err)
{
    struct epoll_event events[EVENTS_PER_ROUND];
    int count = epoll_wait(loop->epoll_fd, events, EVENTS_PER_ROUND, wait_bound(loop, wait_ms));
    int64_t began_ms = http_loop_now_ms(loop);

    if (count < 0 && errno != EINTR)
        return err_set(err, ERR_IO, "cannot wait for events: %s", strerror(errno));
    call_ready(loop, events, count > 0 ? count : 0);
    call_due(loop);
    free_removed(loop);
    count_turn(loop, began_ms);
    return true;
}

bool http_loop_run(struct http_loop *loop, struct err *err)
{
    while (!loop->is_stopped)
        if (!http_loop_step(loop, -1, err))
            return false;
    loop->is_stopped = false;
    return true;
}

void http_loop_stop(struct http_loop *loop)
{
    uint64_t one = 1;
    int saved_errno = errno; /* a signal handler must leave it as it was */

    loop->is_stopped = true;
    if (write(loop->wake_fd, &one, sizeof one) < 0)
        errno = saved_errno; /* the counter is full: the loop is being woken anyway */
}
