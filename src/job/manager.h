/* job/manager.h - runs the jobs: the queue, the processes, their events, their ends.
 *
 * The manager keeps nothing that the store and the run directories do not hold, so it can die at any instruction:
 * job_manager_start finds every job again, adopts the trainers that live, reads what dead ones left, and requeues or
 * finishes them. Trainers survive the server on purpose.
 *
 * It waits for nothing by itself. The owner of the event loop gives it three functions (struct job_loop): watch a
 * descriptor, stop watching it, and call job_manager_tick at a time. All calls belong to that one thread, and none
 * blocks for longer than a transaction of the store or the fork of a child.
 *
 *     job_create → row and run directory → tick: claim → fork → identity stored → "go" → events.jsonl grows → stored
 *     → process gone → exit.json → succeeded | failed | cancelled | queued again
 *
 * Events reach the store at most 100 ms after they were written (at once when the job was quiet). A job is requeued
 * when its process died without exit.json or was hung, up to `attempts_max` times in a row without a new recovery
 * point. */
#pragma once

#include "job/devices.h"
#include "job/ledger.h"
#include "store/blobs.h"
#include "store/disk.h"
#include "store/deliveries.h"
#include "store/store.h"

struct background;
struct job_manager;

/* How the manager waits: over http/loop.h in the server, by hand in tests. */
struct job_loop {
    void *context;
    int64_t (*now_ms)(void *context); /* monotonic */
    /* on_ready(arg) is called while fd is readable. NULL on failure. */
    void *(*watch)(void *context, int fd, void (*on_ready)(void *arg), void *arg);
    void (*unwatch)(void *context, void *watch);
    /* job_manager_tick is wanted at at_ms; replaces the time asked for before. INT64_MAX: not at all. */
    void (*set_deadline)(void *context, int64_t at_ms);
};

struct job_launcher; /* job/launcher.h */

struct job_config {
    const char *data_dir;
    struct store *store;
    struct blobs *blobs;
    struct background
        *background;   /* for what takes long; NULL: it is done at once. Finish it before the manager goes */
    struct disk *disk; /* where jobs ask for room; NULL: they do not */
    struct job_loop loop;
    const struct job_launcher *launcher; /* NULL: processes of this machine */
    const char *program;                 /* what to run as "PROGRAM train --run DIR --attempt N"; NULL: this binary */
    int jobs_max;                        /* at once on the processor; 0: 1. A GPU has one */
    const struct job_devices *devices;   /* GPUs for jobs and chats, copied; NULL: none */
    bool is_without_cpu;                 /* no job runs on the processor */
    int nice;                            /* of trainers, added to ours */
    int attempts_max;                    /* 0: 3 */
    int64_t memory_bytes;                /* of the host, for all children; 0: nine tenths of what it has */
    /* What the trainer's plan for this job.json takes of memory at most, and its checkpoints of the disk at least.
     * NULL: not known, and no limit is set. */
    bool (*plan_bytes)(struct str job_json, uint64_t *memory_bytes, uint64_t *disk_bytes, struct err *err);
    int64_t hung_ms;                     /* without a heartbeat; 0: 10 minutes */
    int64_t grace_ms;                    /* between asking a process to stop and SIGKILL; 0: 10 s */
    /* May be NULL. After a commit: new events or another state of this job. For streams. */
    void (*on_change)(void *context, const struct tenant *tenant, const char *job_id);
    void *on_change_context;
};

/* Copies the config; the store, blobs and loop must outlive the manager. */
struct job_manager *job_manager_new(const struct job_config *config, struct err *err);
/* Recovery; idempotent. Call once, before requests are taken. Problems of a single job end that job, not the start. */
bool job_manager_start(struct job_manager *manager, struct err *err);
void job_manager_tick(struct job_manager *manager);
/* Leaves the processes running: the next manager adopts them. NULL is fine. */
void job_manager_free(struct job_manager *manager);
/* For a maintenance: no job starts until it is ended; jobs at work finish or, with pauses, write a recovery point, stop
 * and wait. refuses: the API takes no new jobs, else they wait. Setting it again changes it. The store keeps it: a
 * server that is started meanwhile starts no job either. */
struct job_drain {
    bool is_on, pauses, refuses;
    int64_t since_ms;
};
bool job_manager_set_drain(struct job_manager *manager, bool is_on, bool pauses, bool refuses, struct err *err);
struct job_drain job_manager_drain(const struct job_manager *manager);
int job_manager_active(const struct job_manager *manager); /* attempts at work */
/* Where chat workers reserve memory; jobs that wait for it get it first. */
struct job_ledger *job_manager_ledger(struct job_manager *manager);
const struct job_devices *job_manager_devices(const struct job_manager *manager);
/* What is known of them anew, after devices_probe: how many there are does not change. */
void job_manager_devices_seen(struct job_manager *manager, const struct job_devices *seen);
bool job_manager_has_cpu(const struct job_manager *manager);
int job_manager_jobs_max(const struct job_manager *manager); /* on the processor */
/* Memory of a GPU. A job takes it whole; chats reserve what they need, and give way when a job comes. */
struct job_ledger *job_manager_gpu_ledger(struct job_manager *manager, int gpu);
/* Who runs on a device, in the arena: one entry for "cuda:N", up to jobs_max for "cpu". */
struct store_texts job_manager_jobs_on(const struct job_manager *manager, const struct tenant *tenant,
                                       const char *device, struct arena *arena, int *count_of_all);

/* A job as the API has resolved and checked it. Texts are copied; NULL where there is none. */
struct job_spec {
    const char *id;         /* as store_id_job makes it; NULL: a new one */
    const char *model;      /* id of the base */
    const char *model_path; /* folder of its weights, absolute */
    const char *adapter_path;
    const char *training_file, *validation_file; /* ids of the tenant's files */
    const char *suffix;
    int64_t seed;
    const char *method;               /* "supervised" or "dpo"; NULL: supervised */
    const char *hyperparameters_json; /* all of the method, resolved: goes into job.json and is echoed */
    const char *options_json;         /* "options" of job.json */
    const char *integrations_json, *from_checkpoint_json, *metadata_json, *tags_json, *request_json;
    const char *base_json; /* weights that have to be fetched first, from where (hub/fetcher.h); NULL: they are here */
    struct store_job_extra extra; /* secrets and deliveries */
    const char *device;   /* "cpu", "cuda": any GPU, "cuda:N"; NULL: cpu */
    int64_t priority;     /* higher first */
    int64_t memory_bytes; /* to reserve; 0: what its plan takes at most and WORKING_BYTES more */
    int64_t keep_checkpoints; /* 0: all */
    int64_t disk_bytes;   /* what it comes to on disk; 0: what plan_bytes says, until the trainer knows all */
};
/* The run directory, then the row, with the event "Job is submitted": `queued`. It starts on the next tick, which is
 * asked for at once. ERR_NOT_FOUND for a file that does not exist, ERR_NO_SPACE when memory_bytes or
 * disk_bytes can never be had. */
bool job_create(struct job_manager *manager, const struct tenant *tenant, const struct job_spec *spec,
                struct arena *arena, struct store_job *job, struct err *err);
/* The weights that a job has waited for are here: a model, or an adapter on one. What only they could tell is settled,
 * and the job takes its turn. ERR_CONFLICT when it does not wait for them any more; any other error but ERR_IO and
 * ERR_NO_SPACE is the job's end. */
bool job_base_arrived(struct job_manager *manager, const char *id, const char *model_path, const char *adapter_path,
                      struct err *err);
/* They will not come: the job fails. */
bool job_base_failed(struct job_manager *manager, const char *id, const struct err *why, struct err *err);
/* job.json as such a job would have it, with files where they lie now: nothing is made. */
bool job_describe(struct job_manager *manager, const struct tenant *tenant, const struct job_spec *spec,
                  struct strbuf *job_json, struct err *err);
/* Each gives the job as it is afterwards. ERR_CONFLICT when its state does not allow it (final ones; resume of a job
 * that is not paused); asking twice for the same is fine. Cancelling is seen by clients at once. */
bool job_cancel(struct job_manager *manager, const struct tenant *tenant, const char *id, struct arena *arena,
                struct store_job *job, struct err *err);
bool job_pause(struct job_manager *manager, const struct tenant *tenant, const char *id, struct arena *arena,
               struct store_job *job, struct err *err);
bool job_resume(struct job_manager *manager, const struct tenant *tenant, const char *id, struct arena *arena,
                struct store_job *job, struct err *err);
/* A checkpoint of a job that has ended goes, with its files, its models and its bytes. ERR_CONFLICT while something
 * needs it. */
bool job_discard_checkpoint(struct job_manager *manager, const struct tenant *tenant, const char *id,
                            const char *checkpoint_id, struct err *err);
/* Folder of a job that the tenant has: receipt.json and the logs are in it. */
bool job_run_path(struct job_manager *manager, const struct tenant *tenant, const char *id, struct arena *arena,
                  const char **path, struct err *err);
