/* base/pool.h - threads that share out numbered tasks.
 *
 * pool_run calls run(context, task, thread) once for every task in [0, task_count), on all threads including the
 * caller's, and returns when all are done. A thread takes the tasks of its share, those from pool_share on up to the
 * next thread's, in order, so that runs over the same rows find them in its cache; then what others have left of
 * theirs. So which thread gets a task is not fixed but for the first of each share, which is its owner's. Results stay
 * the same for any number of threads only because each task owns its output. Workers wait by spinning shortly, then
 * sleep. One pool_run at a time.
 *
 * Where a run waits for memory alone, idle threads can go on reading: pool_fetch names what the next run will read. */
#pragma once

#include <stddef.h>

struct pool;

typedef void pool_task(void *context, int task, int thread);

int pool_cores(void); /* that this process may use */
struct pool *pool_new(int thread_count); /* 0: one per core that this process may use */
void pool_free(struct pool *pool);
int  pool_thread_count(const struct pool *pool);
void pool_run(struct pool *pool, int task_count, pool_task *run, void *context);
int  pool_share(int task_count, int thread_count, int thread); /* the first task of a thread's share */

/* From the next pool_run on, threads that wait read [at, at + bytes) into their caches, so much as these have room for:
 * thread i pieces i, i + thread_count, … in turn. The memory must stay until a later call names other memory and a run
 * of several tasks has begun, or until a call with 0 bytes has returned. Not while a run is on. */
void pool_fetch(struct pool *pool, const void *at, size_t bytes, size_t piece_bytes);
