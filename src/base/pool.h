/* base/pool.h - threads that share out numbered tasks.
 *
 * pool_run calls run(context, task, thread) once for every task in [0, task_count), on all threads including
 * the caller's, and returns when all are done. Tasks are handed out by an atomic counter, so which thread gets
 * which task is not fixed: results stay the same for any number of threads only because each task owns its
 * output. Workers wait by spinning shortly, then sleep. One pool_run at a time. */
#pragma once

struct pool;

typedef void pool_task(void *context, int task, int thread);

int pool_cores(void); /* that this process may use */
struct pool *pool_new(int thread_count); /* 0: one per core that this process may use */
void pool_free(struct pool *pool);
int  pool_thread_count(const struct pool *pool);
void pool_run(struct pool *pool, int task_count, pool_task *run, void *context);
