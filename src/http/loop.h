/* http/loop.h - the event loop: descriptors, timers, one thread.
 *
 * The server process is one loop. Connections live in it, and so does everything else that waits: child
 * processes (a pidfd), run directories (an inotify fd), the inference workers' sockets, periodic work. Whoever
 * waits registers a descriptor or a timer and is called back on the loop's thread; a callback must not block.
 *
 * Timers are absolute points on the loop's clock, kept in a heap. The clock is a parameter, so a test moves
 * time by hand and no test sleeps.
 *
 * Watches and timers may be removed from inside any callback, their own included; a removed one is not called
 * again, even when its event was already fetched from the kernel. */
#pragma once

#include "base/err.h"

#include <stdint.h>
#include <sys/epoll.h>

struct http_loop;
struct http_watch;
struct http_timer;

struct http_clock {
    int64_t (*now_ms)(void *context); /* never runs backwards */
    void *context;
};

/* clock NULL: the monotonic clock. */
struct http_loop *http_loop_new(const struct http_clock *clock, struct err *err);
void http_loop_free(struct http_loop *loop); /* what is still registered is dropped without a call; NULL is fine */

/* Until http_loop_stop, which may come from a callback, a signal handler or another thread. */
bool http_loop_run(struct http_loop *loop, struct err *err);
void http_loop_stop(struct http_loop *loop);
/* One round: waits at most wait_ms (less when a timer is due; -1: no bound of its own), then calls what is ready and
 * due. */
bool http_loop_step(struct http_loop *loop, int64_t wait_ms, struct err *err);
/* Turns of the loop since its start, those whose callbacks took longer than HTTP_SLOW_TURN_MS, and the longest: while a
 * turn takes, nobody is served. */
enum { HTTP_SLOW_TURN_MS = 50 };
struct http_loop_turns {
    int64_t count, slow_count, longest_ms;
};
struct http_loop_turns http_loop_turns(const struct http_loop *loop);
int64_t http_loop_now_ms(const struct http_loop *loop);

/* Level-triggered. events: EPOLLIN, EPOLLOUT, EPOLLRDHUP …; EPOLLERR and EPOLLHUP are always told. The fd stays
 * the caller's: remove the watch before closing it. */
struct http_watch *http_loop_add_fd(struct http_loop *loop, int fd, uint32_t events,
                                    void (*on_ready)(void *context, uint32_t events), void *context, struct err *err);
void http_watch_set(struct http_watch *watch, uint32_t events);
void http_watch_remove(struct http_watch *watch); /* NULL is fine */

/* Calls on_due once when the clock reaches at_ms; INT64_MAX is never. Inside on_due the timer may be set again
 * (that makes it periodic) or removed. */
struct http_timer *http_loop_add_timer(struct http_loop *loop, int64_t at_ms, void (*on_due)(void *context),
                                       void *context);
void http_timer_set(struct http_timer *timer, int64_t at_ms);
void http_timer_remove(struct http_timer *timer); /* NULL is fine */
