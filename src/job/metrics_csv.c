/* The metrics of every step as a CSV file: one line a step, the columns of OpenAI's guide and ours behind them, empty
 * where there is no value. */
#include "job/manager_int.h"

#include "base/json.h"
#include "os/clock.h"

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
        if (value && value->type == JSON_NUMBER) {
            table->value[i] = json_number(value);
            table->has_value[i] = true;
        }
    }
    return true;
}

static bool add_page(struct table *table, struct store *store, const struct store_job *job, const struct tenant *tenant,
                     int64_t *after_seq, bool *has_more, struct err *err)
{
    struct store_event_list events;
    struct arena arena = {0};
    bool ok = store_event_since(store, tenant, job->id, *after_seq, EVENTS_AT_ONCE, &arena, &events, err);

    for (size_t i = 0; ok && i < events.count; i++) {
        ok = add_event(table, &events.at[i], &arena, err);
        *after_seq = events.at[i].seq;
    }
    *has_more = ok && events.has_more;
    arena_deinit(&arena);
    return ok;
}

bool metrics_csv_put(struct attempt *attempt, const struct store_job *job, struct arena *arena, struct store_file *file,
                     struct err *err)
{
    const struct job_config *config = &attempt->manager->config;
    struct table table = {.put = blob_put_begin(config->blobs, err)};
    char *id = arena_alloc(arena, STORE_ID_BYTES), *sha256 = arena_alloc(arena, 65);
    bool ok = table.put && put_head(&table, err), has_more = true;
    int64_t after_seq = 0;

    while (ok && has_more)
        ok = add_page(&table, config->store, job, &attempt->tenant, &after_seq, &has_more, err);
    ok = ok && put_line(&table, err);
    store_id_file(id);
    *file = (struct store_file){.id = id, .filename = "step_metrics.csv", .purpose = "fine-tune-results", .sha256 = sha256,
                                .status = "processed", .created_ms = clock_unix_ms()};
    if (ok) {
        file->bytes = (int64_t)blob_put_bytes(table.put);
        ok = blob_put_commit(table.put, id, sha256, err);
    } else {
        blob_put_abort(table.put);
    }
    strbuf_deinit(&table.line);
    return ok;
}
