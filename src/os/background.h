/* os/background.h - slow acts beside the one thread that owns everything.
 *
 * The server is one thread with one loop. What would hold it up (an fsync, hashing and checking an upload, removing a
 * folder) becomes a task: `run` is called on a thread of this module, then `done` on the owner's, from
 * background_collect. The owner never waits for a lock or a disk; it learns of ends through a descriptor.
 *
 * What may happen in run: work on what the task alone owns while it is under way. Nothing in the service is locked, so
 * run touches no connection, no store, no arena of a request, and calls nothing that does. Tasks run side by side and
 * in any order; what must come in order adds its next task from done. A task cannot be called back: who loses interest
 * (the client has gone) notes that in the context and lets done clean up. So the context lives until done, whatever
 * happens.
 *
 * The threads have a nicer priority than the loop's: they get the processors that it leaves. */
#pragma once

#include "base/err.h"

struct background;

struct background_task {
    void (*run)(void *context);
    void (*done)(void *context); /* may add or free this task */
    void *context;
    struct background_task *next; /* the module's own */
};

struct background *background_new(int thread_count, struct err *err);
/* Readable when background_collect has something to do. */
int background_fd(const struct background *background);
/* Calls done of what has been run. On the owner's thread, like all that follows. */
void background_collect(struct background *background);
/* The task stays the caller's and must not move until done. background NULL: run and done are called at once. */
void background_add(struct background *background, struct background_task *task);
/* Runs what was added, and what the dones add, to its end. NULL is fine. */
void background_finish(struct background *background);
void background_free(struct background *background); /* finishes first; NULL is fine */
