/* The metrics of every step as a CSV file: one line a step, the columns of OpenAI's guide and ours behind them, empty
 * where there is no value. A long job has many, so they are read, over a connection of its own, and written in the
 * background. */
#include "job/manager_int.h"

#include "base/json.h"
#include "os/background.h"
#include "os/clock.h"

#include <stdlib.h>
#include <string.h>

enum { EVENTS_AT_ONCE = 500 };

static const struct column {
    const char *name, *event_name;
} columns[] = {
    {"train_loss", "train_loss"},
    {"train_accuracy", "train_mean_token_accuracy"},
    {"valid_loss", "valid_loss"},
    {"valid_mean_token_accuracy", "valid_mean_token_accuracy"},
    {"learning_rate", "learning_rate"},
    {"grad_norm", "grad_norm"},
};
enum { COLUMN_COUNT = sizeof columns / sizeof *columns };

struct table {
    struct blob_put *put;
    struct strbuf line;
    int64_t step; /* of the values; 0: none */
    double value[COLUMN_COUNT];
    bool has_value[COLUMN_COUNT];
};

static bool put_line(struct table *table, struct err *err)
{
    char number[32];

    strbuf_clear(&table->line);
    strbuf_printf(&table->line, "%lld", (long long)table->step);
    for (size_t i = 0; i < COLUMN_COUNT; i++) {
        strbuf_add_char(&table->line, ',');
        if (table->has_value[i])
            strbuf_add(&table->line, number, json_format_number(table->value[i], number));
    }
    strbuf_add_char(&table->line, '\n');
    memset(table->has_value, 0, sizeof table->has_value);
    return table->step == 0 || blob_put_add(table->put, table->line.at, table->line.len, err);
}

static bool put_head(struct table *table, struct err *err)
{
    strbuf_add_text(&table->line, "step");
    for (size_t i = 0; i < COLUMN_COUNT; i++)
        strbuf_printf(&table->line, ",%s", columns[i].name);
    strbuf_add_char(&table->line, '\n');
    return blob_put_add(table->put, table->line.at, table->line.len, err);
}

/* A validation stands behind the step that it follows and shares its line. */
static bool add_event(struct table *table, const struct store_event *event, struct arena *arena, struct err *err)
{
    const struct json *data;

    if (strcmp(event->kind, "step") != 0 && strcmp(event->kind, "valid") != 0)
        return true;
    if (event->step != table->step && !put_line(table, err))
        return false;
    table->step = event->step;
    data = event->data_json ? json_parse(arena, str_of(event->data_json), NULL, NULL) : NULL;
    for (size_t i = 0; i < COLUMN_COUNT; i++) {
        const struct json *value = json_get(data, columns[i].event_name);
        if (json_has_type(value, JSON_NUMBER)) {
            table->value[i] = json_number(value);
            table->has_value[i] = true;
        }
    }
    return true;
}

static bool add_page(struct table *table, struct store *store, const char *job_id, const struct tenant *tenant,
                     int64_t *after_seq, bool *has_more, struct err *err)
{
    struct store_event_list events;
    struct arena arena = {0};
    bool ok = store_event_since(store, tenant, job_id, *after_seq, EVENTS_AT_ONCE, &arena, &events, err);

    for (size_t i = 0; ok && i < events.count; i++) {
        ok = add_event(table, &events.at[i], &arena, err);
        *after_seq = events.at[i].seq;
    }
    *has_more = ok && events.has_more;
    arena_deinit(&arena);
    return ok;
}

struct metrics_csv {
    struct background_task task;
    struct attempt *attempt; /* NULL: closed meanwhile */
    struct blobs *blobs;
    struct store *reader;
    struct tenant tenant;
    char job_id[STORE_ID_BYTES], file_id[STORE_ID_BYTES], sha256[65];
    struct store_file file;
    bool is_done;
    struct err err;
};

static bool write_table(struct metrics_csv *csv, struct table *table, struct err *err)
{
    bool has_more = true;
    int64_t after_seq = 0;

    if (!put_head(table, err))
        return false;
    while (has_more)
        if (!add_page(table, csv->reader, csv->job_id, &csv->tenant, &after_seq, &has_more, err))
            return false;
    return put_line(table, err);
}

static void run(void *context)
{
    struct metrics_csv *csv = context;
    struct table table = {.put = blob_put_begin(csv->blobs, &csv->err)};

    if (table.put && write_table(csv, &table, &csv->err)) {
        csv->file.bytes = (int64_t)blob_put_bytes(table.put);
        blob_put_commit(table.put, csv->file_id, csv->sha256, &csv->err);
    } else {
        blob_put_abort(table.put);
    }
    strbuf_deinit(&table.line);
}

static void done(void *context)
{
    struct metrics_csv *csv = context;

    csv->is_done = true;
    if (!csv->attempt) {
        metrics_csv_free(csv, false);
        return;
    }
    csv->attempt->settle_ms = 0;
    manager_wake(csv->attempt->manager);
}

bool metrics_csv_begin(struct attempt *attempt, struct err *err)
{
    const struct job_config *config = &attempt->manager->config;
    struct metrics_csv *csv = mem_alloc_zero(1, sizeof *csv);

    csv->reader = store_open_reader(config->store, err);
    if (!csv->reader) {
        free(csv);
        return false;
    }
    csv->task = (struct background_task){run, done, csv, NULL};
    csv->attempt = attempt;
    csv->blobs = config->blobs;
    csv->tenant = attempt->tenant;
    strcpy(csv->job_id, attempt->job.id);
    store_id_file(csv->file_id);
    csv->file = (struct store_file){.id = csv->file_id,
                                    .filename = "step_metrics.csv",
                                    .purpose = "fine-tune-results",
                                    .sha256 = csv->sha256,
                                    .status = "processed",
                                    .created_ms = clock_unix_ms()};
    attempt->csv = csv;
    background_add(config->background, &csv->task);
    return true;
}

bool metrics_csv_is_done(const struct metrics_csv *csv)
{
    return csv->is_done;
}

const struct store_file *metrics_csv_file(const struct metrics_csv *csv, struct err *err)
{
    if (!csv->err.code)
        return &csv->file;
    err_set(err, csv->err.code, "%s", csv->err.text);
    return NULL;
}

void metrics_csv_free(struct metrics_csv *csv, bool is_kept)
{
    if (!csv)
        return;
    if (!csv->is_done) {
        csv->attempt = NULL; /* done frees it */
        return;
    }
    if (!is_kept && !csv->err.code)
        blob_remove(csv->blobs, csv->file_id, NULL);
    store_close(csv->reader);
    free(csv);
}
