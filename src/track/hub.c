/* The result of a job as a model repository of a Hugging Face Hub: the files of its last checkpoint and a model card.
 *
 * Only a job that succeeded is exported. Everything is compared with what the repository has (hub/upload.h), so a
 * sender that died anywhere leaves nothing that the next one would do twice. */
#include "base/hash.h"
#include "hub/card.h"
#include "hub/get.h"
#include "hub/name.h"
#include "hub/upload.h"
#include "os/file.h"
#include "track/result.h"
#include "track/sending.h"

#include <stdio.h>
#include <string.h>

enum { TEXT_BYTES_MAX = 16 << 20 };

struct export
{
    struct sending *s;
    struct hub_wire wire;
    struct hub_upload upload;
    const char *folder;
    bool is_adapter;
};

static const struct json *job_of(const struct export *e)
{
    return json_get(e->s->document, "job");
}

static void on_alive(void *context)
{
    sending_move(((struct export *)context)->s);
}

/* --- the files --- */

static const struct json *read_json(struct export *e, const char *path)
{
    struct str text;

    return file_read(e->s->arena, path, TEXT_BYTES_MAX, &text, NULL) ? json_parse(e->s->arena, text, NULL, NULL) : NULL;
}

static bool list_files(struct export *e, struct err *err)
{
    struct result_files files;

    if (!result_list(e->s->arena, e->folder, &files, err))
        return false;
    e->is_adapter = files.is_adapter;
    e->upload.files = arena_new_array(e->s->arena, struct hub_outgoing, files.count + 1); /* and the card */
    for (size_t i = 0; i < files.count; i++) {
        struct hub_outgoing *file = &e->upload.files[e->upload.file_count++];

        *file = (struct hub_outgoing){.path = files.at[i].path, .place = files.at[i].place, .bytes = files.at[i].bytes};
        memcpy(file->sha256, files.at[i].sha256, sizeof file->sha256);
    }
    return true;
}

/* --- the card --- */

/* What other tools have fetched into the cache comes without its card: the Hub is asked for it, at the same commit.
 * What goes wrong costs the new card a line. */
static const char *ask_licence(struct export *e, const char *base, const char *folder)
{
    struct arena *arena = e->s->arena;
    const char *commit = path_name(folder);
    struct hub_reader reader = {
        .arena = arena, .policy = &e->s->policy, .token = e->wire.token, .repo = base, .revision = commit};
    struct http_client_request request = {.answer_bytes_max = TEXT_BYTES_MAX};
    struct http_client_answer answer = {0};
    const char *licence = NULL;

    if (!base || !strstr(folder, arena_printf(arena, "/%s/snapshots/%s", hub_name_folder(arena, base), commit)))
        return NULL;
    if (hub_reader_open(&reader, e->wire.home.endpoint, NULL) &&
        hub_get(&reader, arena_printf(arena, "/%s/resolve/%s/README.md", base, commit), &request, &answer, NULL))
        licence = hub_card_licence(arena, strbuf_view(&answer.body));
    http_client_answer_deinit(&answer);
    return licence;
}

static const char *find_licence(struct export *e)
{
    const char *folder = sending_text(e->s, "result", "base_path");
    struct str text;

    if (!folder)
        return NULL;
    if (file_read(e->s->arena, path_join(e->s->arena, folder, "README.md"), TEXT_BYTES_MAX, &text, NULL))
        return hub_card_licence(e->s->arena, text);
    return ask_licence(e, sending_text(e->s, "result", "base_model"), folder);
}

static void add_card(struct export *e)
{
    const char *run_dir = sending_text(e->s, "result", "run_dir"), *method = sending_text(e->s, "job", "method");
    const struct hub_card card = {
        .repo = e->upload.repo,
        .base = sending_text(e->s, "result", "base_model"),
        .base_licence = find_licence(e),
        .is_adapter = e->is_adapter,
        .method = method ? method : "supervised",
        .hyperparameters = json_get(job_of(e), "hyperparameters"),
        .metrics = json_get(json_get(e->s->document, "result"), "metrics"),
        .receipt = read_json(e, path_join(e->s->arena, run_dir, "receipt.json")),
    };
    struct hub_outgoing *file = &e->upload.files[e->upload.file_count++];
    struct strbuf text = {0};

    hub_card_write(&card, e->s->arena, &text);
    *file = (struct hub_outgoing){.path = "README.md", .bytes = text.len};
    file->content = str_of(str_copy(e->s->arena, strbuf_view(&text)));
    sha256_hex(file->content, file->sha256);
    strbuf_deinit(&text);
}

/* --- the repository --- */

/* Once it is known it is kept: a user who was renamed meanwhile gets no second one. */
static bool find_repository(struct export *e, struct err *err)
{
    struct sending_body body = {0};
    bool ok;

    e->upload.repo = sending_text(e->s, "external", "repo");
    if (e->upload.repo)
        return true;
    e->upload.repo = hub_repository_find(&e->wire, sending_text(e->s, "config", "output_repo_name"), err);
    if (!e->upload.repo || !hub_repository_create(&e->wire, e->upload.repo, err))
        return false;
    sending_body_begin(&body);
    json_put_text(&body.w, "repo", e->upload.repo);
    ok = sending_tell(e->s, 0, sending_body_end(&body), err);
    strbuf_deinit(&body.text);
    return ok;
}

static bool tell_begin(struct export *e, struct err *err)
{
    return sending_tell_event(e->s, "begun", arena_printf(e->s->arena, "Exporting the result to %s/%s",
                                                          e->wire.home.endpoint, e->upload.repo),
                              err);
}

static bool tell_done(struct export *e, struct err *err)
{
    return sending_tell_event(e->s, "done", arena_printf(e->s->arena, "Exported to %s/%s (commit %.12s)",
                                                         e->wire.home.endpoint, e->upload.repo, e->upload.commit),
                              err);
}

static bool run(struct export *e, struct err *err)
{
    const char *endpoint = sending_text(e->s, "operator", "hub_url"),
               *token = sending_text(e->s, "secrets", "api_token");

    if (!token)
        return err_set(err, ERR_AUTH, "there is no api_token");
    return hub_wire_open(&e->wire, endpoint, token, err) && list_files(e, err) && find_repository(e, err) &&
           tell_begin(e, err) && (add_card(e), hub_upload(&e->upload, err)) && tell_done(e, err);
}

bool hub_send(struct sending *s, struct err *err)
{
    struct export e = {
        .s = s,
        .wire = {.arena = s->arena, .policy = &s->policy, .on_alive = on_alive, .context = &e},
        .upload = {.wire = &e.wire, .summary = arena_printf(s->arena, "Result of %s", sending_text(s, "job", "id"))},
    };
    bool ok;

    e.folder = sending_text(s, "result", "folder");
    e.upload.parts_path = sending_text(s, "operator", "parts_path");
    if (!e.folder)
        return true;
    ok = run(&e, err);
    s->wait_ms = ok ? 0 : e.wire.wait_ms;
    return ok;
}
