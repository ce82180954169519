/* job/event.h - a line of a trainer's events.jsonl (docs/formats.md) as an event that users read, and exit.json.
 *
 * The trainer works on strangers' bytes, so what it writes is checked: types, lengths, and paths that stay below the
 * run directory. Texts and metrics get the names that clients of OpenAI know: loss becomes train_loss, and a step reads
 * "Step 3/9: training loss=0.53". */
#pragma once

#include "store/queue.h"

enum { EVENT_LINE_BYTES_MAX = 1 << 20, EVENT_FILES_MAX = 1024 };

struct event_context {
    const char *output_name; /* of the job's result */
    int64_t total_steps;     /* 0: not known yet; a start event sets it */
    int64_t attempt;
    int64_t now_ms; /* the time of an event without one */
};

struct event_file {
    const char *name; /* no slash, no leading dot */
    int64_t bytes;
    const char *sha256;
};

struct job_event {
    struct store_event row; /* id and seq are the store's */
    bool is_end;            /* of the attempt; exit.json says it better, not stored */
    bool is_checkpoint;
    int64_t total_steps, trained_steps, trained_tokens, estimated_finish_ms, disk_bytes; /* 0: not said */
    /* of a checkpoint */
    const char *path; /* relative to the run directory, cannot leave it */
    const char *model_name, *metrics_json;
    bool is_final;
    struct event_file *files;
    size_t file_count;
};

/* ERR_INPUT says what is wrong with the line. Strings lie in the arena or in `line`. */
bool event_parse(struct arena *arena, struct str line, const struct event_context *context, struct job_event *event,
                 struct err *err);

enum exit_status { EXIT_NONE, EXIT_SUCCEEDED, EXIT_FAILED, EXIT_CANCELLED, EXIT_PAUSED };
struct exit_record {
    enum exit_status status; /* EXIT_NONE: not readable as an exit.json */
    const char *error_code, *error_message, *error_param;
};
struct exit_record exit_parse(struct arena *arena, struct str text);
