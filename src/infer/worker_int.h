/* infer/worker_int.h - what the worker's own files share: worker.c takes lines and has the loop, request.c makes
 * requests of them and runs their choices, say.c writes lines. */
#pragma once

#include "base/json.h"
#include "infer/generate.h"
#include "infer/reply.h"
#include "infer/seats.h"

enum { STEP_TOKENS = 512, CHOICES_MAX = 128 };

/* One request and its choices. */
struct request {
    int64_t id;
    struct worker *worker;
    struct seat *seat;   /* NULL: the base, or the worker's own adapter */
    struct voice *voice; /* of the seat or the worker */
    struct token_list prompt;
    struct sequence_request sequence;
    struct reply_options reply_options;
    struct arena arena; /* stop strings */
    struct reply *reply[CHOICES_MAX];
    struct sequence *running[CHOICES_MAX];
    int choice_count, started_count, ended_count;
    int64_t completion_tokens, cached_tokens; /* cached_tokens: of the prompt, that the first choice took from others */
    struct request *next;
};

/* A line that waits until the adapters that others use leave room for its own. */
struct waiting {
    int64_t id;
    struct str line;
    struct waiting *next;
};

struct worker {
    struct model *model;
    struct pool *pool;
    struct generator *generator;
    struct voice *voice;
    struct seats *seats; /* NULL: the worker's model has an adapter of its own */
    int32_t context_length;
    struct request *requests; /* in order of arrival */
    struct waiting *waiting;  /* likewise */
    uint64_t tried_at;        /* seats_change when the waiting were tried last */
    struct strbuf in, out;
    int out_fd;
    bool is_broken; /* nobody reads any more */
};

/* A line of answers, with the request's id unless that is negative; between the two its members are written. */
struct json_writer say_begin(struct worker *w, int64_t id);
void say_end(struct worker *w, struct json_writer *writer);
void say_error(struct worker *w, int64_t id, const char *member, const struct err *err);
void say_piece(struct request *r, int choice, const struct reply_piece *piece);
void say_finish(struct request *r, int choice, const char *reason);
void say_done(struct request *r);

/* Adds what a line asks for to the worker's requests; owns the seat from here on, NULL for none. */
bool request_make(struct worker *w, const struct json *line, int64_t id, struct seat *seat, struct arena *arena,
                  struct err *err);
void request_drop(struct worker *w, struct request *request);
/* Starts choices while the generator has room. */
void requests_start(struct worker *w);
/* Answers and drops those whose choices have all ended. */
void requests_end(struct worker *w);
/* Logits of the last token, for comparisons with other implementations. */
bool request_logits(struct worker *w, const struct json *line, int64_t id, struct arena *arena, struct err *err);
