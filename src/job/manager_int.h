/* job/manager_int.h - what the manager's files share: the manager and the attempts that it watches. */
#pragma once

#include "job/launcher.h"
#include "job/manager.h"
#include "job/rundir.h"

/* An attempt that has a process, or had one and is not settled yet. */
struct attempt {
    struct attempt *next;
    struct job_manager *manager;
    struct arena arena;   /* of the row and the paths */
    struct store_job job; /* as it was when the attempt was opened */
    struct tenant tenant;
    const char *run_dir, *dir, *events_path;

    struct process process;
    void *process_watch;
    bool has_ended;
    struct process_end end;
    bool was_hung;

    int events_fd;
    int events_watch; /* inotify's name for it, -1: none */
    int64_t offset;   /* stored up to here */
    int64_t total_steps;
    bool has_news;        /* bytes behind offset, perhaps */
    int64_t next_read_ms; /* not earlier, so that a fast trainer costs a transaction in 100 ms and no more */
    int64_t next_check_ms;
    int64_t heartbeat, heartbeat_ms;
    int64_t settle_ms;  /* when it has ended: not before */
    struct metrics_csv *csv; /* of a job that succeeded, until its row is there */
    int64_t next_room_ms; /* when its bytes on disk are added up again */
    int64_t kill_at_ms; /* INT64_MAX: not asked to stop */
};

struct job_manager {
    struct job_config config;
    struct arena arena; /* of the config's texts */
    const char *data_dir, *program;
    struct job_ledger *ledger;
    struct job_devices devices;                 /* that jobs and chats may have */
    struct job_ledger *gpu_ledger[DEVICES_MAX]; /* of each one's memory: a job takes it whole */
    bool has_cpu;                               /* jobs may run on the processor */
    struct job_drain drain;
    struct attempt *first;
    int attempt_count;
    int inotify_fd;
    void *inotify_watch;
    char *read_buf;   /* EVENT_LINE_BYTES_MAX */
    bool is_retiring, is_retire_wanted; /* retire.c: a task is under way, and there is more to do behind it */
    bool is_woken;    /* a tick is wanted at once */
    int64_t retry_ms; /* the store refused: not before */
    struct strbuf
        passed_over; /* ids of jobs that wait for room on the disk: a JSON list without its end; empty: none */
    int64_t room_retry_ms;     /* when they are looked at again */
};

enum { READ_INTERVAL_MS = 100, CHECK_INTERVAL_MS = 1000, RETRY_INTERVAL_MS = 1000 };

void manager_complain(const char *job_id, const char *what, const struct err *err);
int64_t manager_now_ms(const struct job_manager *manager);
void manager_wake(struct job_manager *manager); /* tick as soon as possible */
/* Takes from an ended job's run directory what nobody needs. What fails now is tried again at the next start. */
void manager_clean(struct job_manager *manager, const char *job_id);
void manager_changed(struct job_manager *manager, const struct tenant *tenant, const char *job_id);

/* attempt.c: one attempt from its start to the end of its process. */

/* Reads the row, without a process. */
struct attempt *attempt_open(struct job_manager *manager, const char *job_id, struct err *err);
/* Starts the process: everything is stored before it runs. */
bool attempt_launch(struct attempt *attempt, struct err *err);
/* Finds the process that an earlier server started; one that is gone is `has_ended`. */
void attempt_adopt(struct attempt *attempt);
/* Watches are removed; the process is left alone. */
void attempt_close(struct attempt *attempt);
struct attempt *attempt_find(struct job_manager *manager, const char *job_id);
/* Tells the trainer what is wanted. To cancel has a time limit. */
void attempt_tell(struct attempt *attempt, enum job_want want);
/* True when the attempt is settled: its row has moved on, and it is to be closed. */
bool attempt_tick(struct attempt *attempt, int64_t now_ms);
int64_t attempt_deadline_ms(const struct attempt *attempt);

/* submit.c: what a specification comes to. */

/* The rows of a job's files. */
struct job_files {
    struct store_file training, validation;
};
/* Its job.json; what that names lives in the arena and in files. */
bool spec_describe(struct job_manager *manager, const struct tenant *tenant, const struct job_spec *spec,
                   const struct store_job *row, struct arena *arena, struct job_files *files, struct rundir_job *job,
                   struct err *err);
/* method as clients send it: {"type": "dpo", "dpo": {"hyperparameters": {…}}}. */
const char *spec_method(struct arena *arena, const struct job_spec *spec);
/* What a job reserves of memory: what its plan takes at most, but never more than there is: the trainer fits its plan
 * to that or says what to change. And what it is promised of the disk until the trainer knows all. When there is no
 * plan the trainer says why. */
void spec_find_needs(struct job_manager *manager, const struct tenant *tenant, const struct job_spec *spec,
                     int64_t *memory_bytes, int64_t *disk_bytes);

/* retire.c: removes what a job does not keep (NULL: any job); complains by itself. */
void manager_retire(struct job_manager *manager, const char *job_id);

/* placing.c: which device a job gets. */

/* The list of what a job may ask for now: JSON; NULL when nothing is free. */
const char *placing_free(struct job_manager *manager, struct arena *arena);
/* The device for a job that asks for what was free, with its memory; NULL: chats have it and were asked to go. */
const char *placing_take(struct job_manager *manager, const struct store_job *job);
/* For a job that runs already. */
void placing_hold(struct job_manager *manager, const struct store_job *job);
void placing_release(struct job_manager *manager, const char *job_id);
/* At the start: an event for each job that waits for a device which was there when it was made. */
void placing_tell_missing(struct job_manager *manager);

/* room.c: room on the disk. */

/* ERR_NO_SPACE when it can never be had. */
bool room_can_ever_be(struct job_manager *manager, int64_t disk_bytes, struct err *err);
/* False when the job has to wait: it is told so, and passed over until room_look_again. */
bool room_promise(struct job_manager *manager, const struct store_job *job);
/* For a job that runs already: what cannot be promised is not. */
void room_hold(struct job_manager *manager, const struct store_job *job);
const char *room_passed_over(struct job_manager *manager, struct arena *arena); /* JSON list; NULL: none */
void room_look_again(struct job_manager *manager);
void room_note(struct attempt *attempt, int64_t now_ms); /* every ten seconds: how much of it is written */
void room_release(struct job_manager *manager, const char *job_id);

/* drain.c: what the server before this one was told. */
bool drain_read(struct job_manager *manager, struct err *err);

/* tail.c: events.jsonl into the store. */

/* Stores the complete lines behind the offset, at most one buffer of them. more: there may be others. */
bool attempt_read_events(struct attempt *attempt, bool *more, struct err *err);

/* settle.c: what becomes of the job when its process has ended. False without an error: not yet, settle_ms says
 * when. */
bool attempt_settle(struct attempt *attempt, struct err *err);

/* metrics_csv.c: the job's metrics so far as a file whose row the caller stores. */
struct metrics_csv;
/* As attempt->csv; the attempt settles again when it is done. */
bool metrics_csv_begin(struct attempt *attempt, struct err *err);
bool metrics_csv_is_done(const struct metrics_csv *csv);
const struct store_file *metrics_csv_file(const struct metrics_csv *csv, struct err *err); /* NULL: it failed */
void metrics_csv_free(struct metrics_csv *csv, bool is_kept); /* at any time; NULL is fine */
