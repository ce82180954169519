/* store/inspect.h - a database seen from beside the server that uses it: for backups and `attune doctor`. Nothing here
 * takes the lock of the data folder or writes to it. */
#pragma once

#include "store/store.h"

/* For reading alone. ERR_CONFLICT when its schema is not this program's. Close with store_close. */
struct store *store_open_to_read(const char *data_dir, struct err *err);
/* A copy of the database as it is at one moment, in the folder to_dir, durable. It knows of no processes: a server that
 * is started on the copy must not take the other one's trainers for its own. */
bool store_copy(const char *data_dir, const char *to_dir, struct err *err);

/* What rows say lies on the disk. */
enum stored_kind { STORED_FILE, STORED_PART, STORED_JOB, STORED_CHECKPOINT };
struct stored {
    enum stored_kind kind;
    const char *id, *job_id; /* job_id: of a checkpoint */
    const char *path;        /* of a checkpoint, as the row has it */
    const char *sha256;      /* of a file; NULL: not known */
    int64_t bytes;           /* of a file or part */
    bool is_clean;           /* of a job: it has ended and nothing may be left of its work but the results */
};
struct stored_list {
    struct stored *at;
    size_t count;
};
/* Ordered by kind. All from one moment. */
bool store_list_stored(struct store *store, struct arena *arena, struct stored_list *list, struct err *err);

/* Holds the database against what must always be true of it: structure, foreign keys, states of jobs, sums. tell is
 * called for each row that breaks a rule. */
bool store_check_rows(struct store *store, void (*tell)(void *context, const char *what, const char *id), void *context,
                      struct err *err);
