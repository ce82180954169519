#include "api/intake.h"

#include "os/background.h"
#include "os/clock.h"

#include <stdlib.h>
#include <string.h>

enum { PIECE_BYTES = 256 << 10, WAITING_BYTES_MAX = 512 << 10, SOURCE_PIECES_PER_RUN = 8 };

struct intake {
    const struct api_config *config;
    struct http_exchange *exchange;
    struct strbuf arriving;
    uint64_t bytes;
    char id[STORE_ID_BYTES];
    void (*on_committed)(void *context, const struct err *err);
    void *context;
    bool is_committing; /* asked for */
    bool is_told;       /* on_committed was called */
    bool is_kept;
    bool is_freed;      /* by its owner: what is left is to clean up */
    bool is_under_way;  /* the task has what follows */

    struct background_task task;
    struct strbuf working;
    struct intake_source source;
    struct blob_put *put;
    void *check;
    struct api_check_result found;
    char sha256[65];
    struct err err;      /* the first */
    uint64_t written;
    bool is_last;        /* the run that ends with the commit, when bytes come from the client */
    bool is_clean_up;    /* the run that removes what is not kept */
    bool is_committed;   /* a blob has the id */
};

/* --- on a background thread --- */

static bool write_piece(struct intake *intake, struct str bytes)
{
    if (bytes.len == 0)
        return true;
    if (intake->check)
        intake->config->checker.add(intake->check, bytes.at, bytes.len);
    intake->written += bytes.len;
    return blob_put_add(intake->put, bytes.at, bytes.len, &intake->err);
}

/* In turns, so that one large file does not keep a thread from the others. */
static bool write_from_source(struct intake *intake)
{
    struct str piece;

    for (int i = 0; i < SOURCE_PIECES_PER_RUN && !intake->is_last; i++) {
        if (!intake->source.next(intake->source.context, &piece, &intake->err) || !write_piece(intake, piece))
            return false;
        intake->is_last = piece.len == 0;
    }
    return true;
}

static void commit(struct intake *intake)
{
    struct blob_put *put = intake->put;

    if (intake->check)
        intake->config->checker.end(intake->check, &intake->found);
    intake->put = NULL;
    intake->is_committed = blob_put_commit(put, intake->id, intake->sha256, &intake->err);
}

static void clean_up(struct intake *intake)
{
    blob_put_abort(intake->put);
    intake->put = NULL;
    if (intake->is_committed && !intake->is_kept)
        blob_remove(intake->config->blobs, intake->id, NULL);
    intake->is_committed = false;
}

static void run(void *context)
{
    struct intake *intake = context;

    if (intake->is_clean_up) {
        clean_up(intake);
        return;
    }
    if (!(intake->source.next ? write_from_source(intake) : write_piece(intake, strbuf_view(&intake->working))))
        return;
    if (intake->is_last)
        commit(intake);
}

/* --- on the loop's thread --- */

static void intake_destroy(struct intake *intake)
{
    if (intake->check)
        intake->config->checker.free(intake->check);
    if (intake->source.free)
        intake->source.free(intake->source.context);
    strbuf_deinit(&intake->arriving);
    strbuf_deinit(&intake->working);
    free(intake);
}

/* Nothing may be touched behind it: without threads the intake may be gone. */
static void start(struct intake *intake)
{
    struct strbuf arrived = intake->arriving;

    intake->arriving = intake->working;
    intake->working = arrived;
    strbuf_clear(&intake->arriving);
    intake->is_last = intake->is_committing && !intake->source.next;
    intake->is_clean_up = intake->is_freed;
    intake->is_under_way = true;
    background_add(intake->config->background, &intake->task);
}

static void go_on(struct intake *intake)
{
    if (intake->arriving.len >= PIECE_BYTES || (intake->is_committing && !intake->is_told))
        start(intake);
}

static bool is_unwanted_on_disk(const struct intake *intake)
{
    return intake->put || (intake->is_committed && !intake->is_kept);
}

static void end(struct intake *intake)
{
    if (is_unwanted_on_disk(intake))
        start(intake);
    else
        intake_destroy(intake);
}

static void tell(struct intake *intake)
{
    intake->is_told = true;
    intake->on_committed(intake->context, intake->err.code ? &intake->err : NULL);
}

static void done(void *context)
{
    struct intake *intake = context;

    intake->is_under_way = false;
    if (intake->is_freed) {
        end(intake);
        return;
    }
    http_body_resume(intake->exchange);
    if (intake->is_committing && (intake->is_committed || intake->err.code))
        tell(intake);
    else if (!intake->err.code)
        go_on(intake);
}

struct intake *intake_begin(struct call *call, bool is_checked, int64_t bytes, struct err *err)
{
    struct intake *intake = mem_alloc_zero(1, sizeof *intake);

    intake->config = &call->api->config;
    intake->exchange = call->exchange;
    intake->task = (struct background_task){run, done, intake, NULL};
    intake->put = blob_put_begin(intake->config->blobs, err);
    if (intake->put && blob_put_promise(intake->put, intake->config->disk, bytes, err)) {
        intake->check = is_checked ? intake->config->checker.begin() : NULL;
        return intake;
    }
    blob_put_abort(intake->put);
    intake_destroy(intake);
    return NULL;
}

bool intake_add(struct intake *intake, struct str bytes, struct err *err)
{
    if (!intake->is_under_way && intake->err.code)
        return err_set(err, intake->err.code, "%s", intake->err.text);
    strbuf_add_str(&intake->arriving, bytes);
    intake->bytes += bytes.len;
    if (!intake->is_under_way)
        go_on(intake);
    else if (intake->arriving.len >= WAITING_BYTES_MAX)
        http_body_pause(intake->exchange);
    return true;
}

uint64_t intake_bytes(const struct intake *intake)
{
    return intake->bytes;
}

void intake_take_from(struct intake *intake, const struct intake_source *source)
{
    intake->source = *source;
}

void intake_commit(struct intake *intake, const char *id, void (*on_committed)(void *context, const struct err *err),
                   void *context)
{
    strcpy(intake->id, id);
    intake->on_committed = on_committed;
    intake->context = context;
    intake->is_committing = true;
    if (intake->is_under_way)
        return;
    if (intake->err.code)
        tell(intake);
    else
        start(intake);
}

void intake_describe(const struct intake *intake, struct store_file *file)
{
    file->id = intake->id;
    file->sha256 = intake->sha256;
    file->bytes = (int64_t)intake->written;
    file->created_ms = clock_unix_ms();
    file->status = "processed";
    if (strcmp(file->purpose, "fine-tune") != 0)
        return;
    file->kind = intake->found.kind;
    file->line_count = (int64_t)intake->found.line_count;
    file->bad_line_count = (int64_t)intake->found.bad_line_count;
    file->status = intake->found.details ? "error" : "processed";
    file->status_details = intake->found.details;
}

bool intake_rename(struct intake *intake, const char *id, struct err *err)
{
    if (!blob_rename(intake->config->blobs, intake->id, id, err))
        return false;
    strcpy(intake->id, id);
    return true;
}

void intake_keep(struct intake *intake)
{
    intake->is_kept = true;
}

void intake_free(struct intake *intake)
{
    if (!intake)
        return;
    intake->is_freed = true;
    if (!intake->is_under_way)
        end(intake);
}
