/* A run of Weights & Biases: made by GraphQL, filled through its file stream.
 *
 * The file stream takes lines of files at line numbers, so what is sent twice is there once, as long as the same lines
 * go to the same numbers: the line numbers are kept together with the seq that they stand for. The run's id is the
 * job's, so a second UpsertBucket finds what the first one made. A row of the history is a step, whose metrics may come
 * in several events: it is held back until another step or the end. Besides, the service takes a run for crashed that
 * says nothing for five minutes, so a sender comes every minute while the job is there. */
#include "http/url.h"
#include "track/sending.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { AGAIN_MS = 60000, LINE_BYTES_MAX = 4096 };
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_INTERRUPTED = 255 /* as after Ctrl-C */ };

/* The latest values by name, in the order in which the names came. */
struct value {
    struct str key;
    const struct json *number;
    struct value *next;
};

struct row {
    struct value *first;
    int64_t step, time_ms;
};

/* What is known between two senders. */
struct run {
    const char *id, *entity, *project; /* entity NULL: not made yet */
    int64_t rows, lines;               /* of history and console that are there */
    struct row row;                    /* held back; empty: none */
    struct row summary;
};

/* --- rows --- */

static void row_set(struct arena *arena, struct row *row, const struct json *number)
{
    struct value **at = &row->first;

    while (*at && !str_equal((*at)->key, number->key))
        at = &(*at)->next;
    if (!*at) {
        *at = arena_new(arena, struct value);
        (*at)->key = number->key;
    }
    (*at)->number = number;
}

static void row_add_event(struct arena *arena, struct row *row, const struct json *event)
{
    row->step = json_integer_or(json_get(event, "step"), 0);
    row->time_ms = json_integer_or(json_get(event, "time_ms"), 0);
    json_each(member, json_get(event, "data"))
        if (sending_is_metric(member))
            row_set(arena, row, member);
}

static void put_values(struct json_writer *w, const struct row *row)
{
    for (const struct value *value = row->first; value; value = value->next) {
        json_write_key_str(w, value->key);
        json_write_value(w, value->number);
    }
}

/* Since the job started; a run's clock never shows less than nothing. */
static double runtime_s(const struct sending *s, const struct row *row)
{
    const int64_t ms = row->time_ms - sending_integer(s, "job", "started_ms");

    return ms > 0 ? (double)ms / 1000 : 0;
}

static void put_row(const struct sending *s, struct json_writer *w, const struct row *row)
{
    put_values(w, row);
    if (!row->first)
        return;
    json_put_integer(w, "_step", row->step);
    json_put_number(w, "_timestamp", (double)row->time_ms / 1000);
    json_put_number(w, "_runtime", runtime_s(s, row));
}

/* --- what is kept between two senders --- */

static void row_load(struct arena *arena, struct row *row, const struct json *kept)
{
    row->step = json_integer_or(json_get(kept, "step"), 0);
    row->time_ms = json_integer_or(json_get(kept, "time_ms"), 0);
    json_each(number, json_get(kept, "values"))
        row_set(arena, row, number);
}

static void put_kept_row(struct json_writer *w, const char *key, const struct row *row)
{
    json_write_key(w, key);
    json_write_begin_object(w);
    json_put_integer(w, "step", row->step);
    json_put_integer(w, "time_ms", row->time_ms);
    json_write_key(w, "values");
    json_write_begin_object(w);
    put_values(w, row);
    json_write_end_object(w);
    json_write_end_object(w);
}

static struct run run_load(struct sending *s)
{
    const struct json *kept = json_get(s->document, "external");
    struct run run = {.id = sending_text(s, "job", "id"),
                      .entity = sending_text(s, "external", "entity"),
                      .project = sending_text(s, "external", "project"),
                      .rows = sending_integer(s, "external", "rows"),
                      .lines = sending_integer(s, "external", "lines")};

    row_load(s->arena, &run.row, json_get(kept, "row"));
    row_load(s->arena, &run.summary, json_get(kept, "summary"));
    return run;
}

static bool run_tell(struct sending *s, struct sending_body *body, const struct run *run, int64_t seq, struct err *err)
{
    sending_body_begin(body);
    json_put_text(&body->w, "entity", run->entity);
    json_put_text(&body->w, "project", run->project);
    json_put_integer(&body->w, "rows", run->rows);
    json_put_integer(&body->w, "lines", run->lines);
    put_kept_row(&body->w, "row", &run->row);
    put_kept_row(&body->w, "summary", &run->summary);
    return sending_tell(s, seq, sending_body_end(body), err);
}

/* --- the run --- */

#define UPSERT                                                                                                         \
    "mutation UpsertBucket($name: String, $project: String, $entity: String, $displayName: String, "                   \
    "$tags: [String!], $config: JSONString) { upsertBucket(input: {name: $name, modelName: $project, "                 \
    "entityName: $entity, displayName: $displayName, tags: $tags, config: $config}) "                                  \
    "{ bucket { id name project { name entity { name } } } inserted } }"

/* Every value wrapped, and a mark without which the service takes the run for one that never began. */
static char *config_text(struct sending *s)
{
    struct sending_body config = {0};
    char *text;

    sending_body_begin(&config);
    json_each(param, sending_params(s)) {
        json_write_key_str(&config.w, param->key);
        json_write_begin_object(&config.w);
        json_put_value(&config.w, "value", param);
        json_write_end_object(&config.w);
    }
    json_write_key(&config.w, "_wandb");
    json_write_raw(&config.w, STR("{\"value\": {\"t\": {}}}"));
    text = str_copy(s->arena, sending_body_end(&config));
    strbuf_deinit(&config.text);
    return text;
}

/* A run that is there keeps the name and the tags that people may have given it since. */
static void put_variables(struct sending *s, struct json_writer *w, const struct run *run)
{
    const char *entity = run->entity ? run->entity : sending_text(s, "config", "entity"),
               *name = sending_text(s, "config", "name");

    json_write_key(w, "variables");
    json_write_begin_object(w);
    json_put_text(w, "name", run->id);
    json_put_text(w, "project", run->entity ? run->project : sending_text(s, "config", "project"));
    if (entity)
        json_put_text(w, "entity", entity);
    if (!run->entity) {
        json_put_text(w, "displayName", name ? name : run->id);
        json_put_value(w, "tags", json_get(json_get(s->document, "config"), "tags"));
    }
    json_put_text(w, "config", config_text(s));
    json_write_end_object(w);
}

/* 409 is two of these at once: to be tried again. */
static const struct json *upsert(struct sending *s, struct sending_body *body, const struct run *run, struct err *err)
{
    const struct json *answer;

    sending_body_begin(body);
    json_put_text(&body->w, "operationName", "UpsertBucket");
    json_put_text(&body->w, "query", UPSERT);
    put_variables(s, &body->w, run);
    answer = sending_post(s, body, "/graphql", NULL, err);
    if (!answer && err->code == ERR_CONFLICT)
        err->code = ERR_IO;
    if (answer && json_at(json_get(answer, "errors"), 0)) {
        err_set(err, ERR_INPUT, "%s refused to make the run", s->place.origin);
        return NULL;
    }
    return answer;
}

/* What the service's own client makes of the address of its API: https://api.wandb.ai is for programs, people go to
 * https://wandb.ai; a server of one's own has both in one place. */
static const char *app_url(struct sending *s)
{
    static const struct {
        const char *api, *app;
    } hosts[] = {{"://api.wandb.", "://wandb."}, {"://api.", "://app."}};
    const struct str url = str_of(arena_printf(s->arena, "%s%s", s->place.origin, s->base.rest));

    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        const ptrdiff_t at = str_find(url, str_of(hosts[i].api), 0);

        if (at >= 0)
            return arena_printf(s->arena, "%.*s%s%s", (int)at, url.at, hosts[i].app,
                                url.at + (size_t)at + strlen(hosts[i].api));
    }
    return url.at;
}

/* "/entity/project/run", with something between the last two. */
static void add_place(struct strbuf *out, const struct run *run, const char *between)
{
    strbuf_add_char(out, '/');
    url_encode(out, str_of(run->entity));
    strbuf_add_char(out, '/');
    url_encode(out, str_of(run->project));
    strbuf_add_text(out, between);
    url_encode(out, str_of(run->id));
}

static bool tell_run(struct sending *s, const struct run *run, struct err *err)
{
    struct strbuf url = {0};
    bool ok;

    strbuf_add_text(&url, app_url(s));
    add_place(&url, run, "/runs/");
    ok = sending_tell_run(s, "W&B", url.at, err);
    strbuf_deinit(&url);
    return ok;
}

static bool make_run(struct sending *s, struct sending_body *body, struct run *run, struct err *err)
{
    const struct json *answer = upsert(s, body, run, err);
    const struct json *bucket = json_get(json_get(json_get(answer, "data"), "upsertBucket"), "bucket"),
                      *project = json_get(bucket, "project");

    if (!answer)
        return false;
    run->project = sending_copy(s, project, "name");
    run->entity = sending_copy(s, json_get(project, "entity"), "name");
    if (!run->project || !run->entity)
        return sending_not_as(s, "W&B", err);
    return tell_run(s, run, err) && run_tell(s, body, run, 0, err);
}

/* --- the file stream --- */

struct lines {
    struct strbuf text; /* of a JSON array's items */
    struct json_writer w;
    int64_t count;
};

static void lines_add(struct lines *lines, struct str line)
{
    lines->w.buf = &lines->text;
    json_write_string(&lines->w, line);
    lines->count++;
}

static void end_row(struct sending *s, struct run *run, struct lines *history)
{
    struct sending_body line = {0};

    if (!run->row.first)
        return;
    sending_body_begin(&line);
    put_row(s, &line.w, &run->row);
    lines_add(history, sending_body_end(&line));
    strbuf_deinit(&line.text);
    run->row = (struct row){0};
}

static void add_metrics(struct sending *s, struct run *run, struct lines *history, const struct json *event)
{
    if (run->row.step != json_integer_or(json_get(event, "step"), 0))
        end_row(s, run, history);
    row_add_event(s->arena, &run->row, event);
    row_add_event(s->arena, &run->summary, event);
}

/* "[ERROR ]2023-04-05T10:15:30.000000 text"; one line, whatever the text holds. */
static void add_console(struct sending *s, struct lines *console, const struct json *event)
{
    const bool is_error = json_is(json_get(event, "level"), "error");
    const struct str message = str_clip(json_string_or(json_get(event, "message"), STR_NONE), LINE_BYTES_MAX);
    const int64_t ms = json_integer_or(json_get(event, "time_ms"), 0);
    const time_t seconds = (time_t)(ms / 1000);
    char *text = str_copy(s->arena, message), date[32];
    struct tm utc;

    for (char *c = text; *c; c++)
        *c = (unsigned char)*c < ' ' ? ' ' : *c;
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", gmtime_r(&seconds, &utc));
    lines_add(console, str_of(arena_printf(s->arena, "%s%s.%06d %s", is_error ? "ERROR " : "", date,
                                           (int)(ms % 1000) * 1000, text)));
}

static void put_file(struct json_writer *w, const char *name, int64_t offset, const struct lines *lines)
{
    if (lines->count == 0)
        return;
    json_write_key(w, name);
    json_write_begin_object(w);
    json_put_integer(w, "offset", offset);
    json_write_key(w, "content");
    json_write_begin_array(w);
    json_write_raw(w, strbuf_view(&lines->text));
    json_write_end_array(w);
    json_write_end_object(w);
}

static void put_summary(struct sending *s, struct json_writer *w, const struct row *summary)
{
    struct sending_body text = {0};
    struct lines lines = {0};

    sending_body_begin(&text);
    put_row(s, &text.w, summary);
    json_write_key(&text.w, "_wandb");
    json_write_begin_object(&text.w);
    json_put_integer(&text.w, "runtime", (int64_t)runtime_s(s, summary));
    json_write_end_object(&text.w);
    lines_add(&lines, sending_body_end(&text));
    put_file(w, "wandb-summary.json", 0, &lines);
    strbuf_deinit(&lines.text);
    strbuf_deinit(&text.text);
}

static int exit_code(const struct sending *s)
{
    const char *state = sending_text(s, "job", "state");

    if (!state || strcmp(state, "succeeded") == 0)
        return EXIT_OK;
    return strcmp(state, "failed") == 0 ? EXIT_FAILED : EXIT_INTERRUPTED;
}

static void put_stream(struct sending *s, struct json_writer *w, const struct run *run, const struct lines *history,
                       const struct lines *console)
{
    if (history->count || console->count) {
        json_write_key(w, "files");
        json_write_begin_object(w);
        put_file(w, "wandb-history.jsonl", run->rows, history);
        if (run->summary.first)
            put_summary(s, w, &run->summary);
        put_file(w, "output.log", run->lines, console);
        json_write_end_object(w);
    }
    if (sending_is(s, "is_last")) {
        json_put_bool(w, "complete", true);
        json_put_integer(w, "exitcode", exit_code(s));
    }
}

static char *stream_path(struct sending *s, const struct run *run)
{
    struct strbuf path = {0};
    char *copy;

    strbuf_add_text(&path, "/files");
    add_place(&path, run, "/");
    strbuf_add_text(&path, "/file_stream");
    copy = str_copy(s->arena, strbuf_view(&path));
    strbuf_deinit(&path);
    return copy;
}

/* Somebody pressed Stop there. The service's own client ends the script then. */
static bool tell_stop(struct sending *s, const struct json *answer, struct err *err)
{
    if (sending_is(s, "is_last") || !json_bool_or(json_get(answer, "stopped"), false))
        return true;
    return sending_tell_event(s, "stopped", "Stopped at W&B: the job is cancelled", err) && sending_tell_stop(s, err);
}

/* One request for all of the document; without anything to tell it is the sign of life. */
static bool stream(struct sending *s, struct sending_body *body, struct run *run, struct err *err)
{
    struct lines history = {0}, console = {0};
    const struct json *answer;

    json_each(event, sending_events(s)) {
        if (sending_event_is(event, "metrics"))
            add_metrics(s, run, &history, event);
        if (!sending_is_of_trackers(event))
            add_console(s, &console, event);
    }
    if (sending_is(s, "is_last"))
        end_row(s, run, &history);
    sending_body_begin(body);
    put_stream(s, &body->w, run, &history, &console);
    answer = sending_post(s, body, stream_path(s, run), NULL, err);
    run->rows += history.count;
    run->lines += console.count;
    strbuf_deinit(&history.text);
    strbuf_deinit(&console.text);
    return answer && run_tell(s, body, run, sending_last_seq(s), err) && tell_stop(s, answer, err);
}

bool wandb_send(struct sending *s, struct err *err)
{
    const char *url = sending_text(s, "operator", "wandb_url");
    struct sending_body body = {0};
    struct run run = run_load(s);
    bool ok;

    s->username = "api";
    s->password = sending_text(s, "secrets", "api_key");
    s->again_ms = AGAIN_MS;
    if (!s->password)
        return err_set(err, ERR_AUTH, "there is no key of Weights & Biases any more");
    ok = sending_connect(s, str_of(url), err) &&
         ((run.entity && !sending_has_new_params(s)) || make_run(s, &body, &run, err)) && stream(s, &body, &run, err);
    strbuf_deinit(&body.text);
    return ok;
}
