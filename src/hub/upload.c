#include "hub/upload.h"

#include "base/hash.h"
#include "hub/listing.h"
#include "hub/name.h"
#include "os/file.h"

#include <string.h>

enum {
    ASKED_MAX = 256, /* files of one question */
    SAMPLE_BYTES = 512,
    TREE_PAGES_MAX = 50,
    REGULAR_BYTES_MAX = 100 << 20, /* of one commit, in all */
};

/* --- the repository --- */

const char *hub_repository_find(struct hub_wire *wire, const char *name, struct err *err)
{
    const struct json *user;
    const char *owner;

    if (strchr(name, '/'))
        return name;
    user = hub_wire_get(wire, "/api/whoami-v2", err);
    if (!user)
        return NULL;
    owner = hub_wire_text(wire, user, "name");
    if (!owner || strchr(owner, '/') || !hub_name_is_repo(str_of(owner))) {
        hub_wire_is_strange(wire, err);
        return NULL;
    }
    return arena_printf(wire->arena, "%s/%s", owner, name);
}

bool hub_repository_create(struct hub_wire *wire, const char *repo, struct err *err)
{
    const char *name = strchr(repo, '/') + 1;
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    struct err problem = {0};
    bool ok;

    json_write_begin_object(&w);
    json_put_text(&w, "name", name);
    json_put_str(&w, "organization", str_slice(str_of(repo), 0, (size_t)(name - repo) - 1));
    json_put_text(&w, "visibility", "private");
    json_put_text(&w, "type", "model");
    json_write_end_object(&w);
    ok = hub_wire_post(wire, "/api/repos/create", &body, &problem) || problem.code == ERR_CONFLICT;
    strbuf_deinit(&body);
    return ok || err_set(err, problem.code, "making the repository %s: %s", repo, problem.text);
}

static bool find_head(struct hub_upload *u, const char **head, struct err *err)
{
    const struct json *info = hub_wire_get(
        u->wire, arena_printf(u->wire->arena, "/api/models/%s/revision/main", u->repo), err);

    if (!info)
        return err_prefix(err, "the repository %s", u->repo);
    *head = hub_wire_text(u->wire, info, "sha");
    return (*head && hub_name_is_commit(str_of(*head))) || hub_wire_is_strange(u->wire, err);
}

/* --- what the repository has --- */

static bool read_tree(struct hub_upload *u, const char *head, struct hub_listing *tree, struct err *err)
{
    struct hub_wire *wire = u->wire;
    const char *url = arena_printf(wire->arena, "/api/models/%s/tree/%s?recursive=true&expand=false", u->repo, head);
    bool ok = true;

    for (int page = 0; ok && url && page < TREE_PAGES_MAX; page++) {
        struct http_client_request request = {.method = "GET", .url = url};
        struct http_client_answer answer = {0};

        ok = hub_wire_send(wire, &request, &answer, err) &&
             hub_listing_add(wire->arena, strbuf_view(&answer.body), tree, err);
        url = hub_listing_next(wire->arena, http_client_answer_header(&answer, "link"));
        http_client_answer_deinit(&answer);
    }
    return ok;
}

static bool has(const struct hub_listing *tree, const struct hub_outgoing *file, const char *blob)
{
    const struct hub_file *there = hub_listing_find(tree, file->path);

    return there && there->is_large == file->is_large && strcmp(there->blob, blob) == 0;
}

/* --- which way each file goes --- */

static bool read_part(const struct hub_outgoing *file, size_t bytes, struct strbuf *out, struct err *err)
{
    size_t got = 0;
    int fd;
    bool ok;

    if (!file->place) {
        strbuf_add_str(out, str_slice(file->content, 0, bytes));
        return true;
    }
    fd = file_open_read(file->place, err);
    if (fd < 0)
        return false;
    strbuf_reserve(out, bytes + 1);
    ok = fd_pread(fd, out->at + out->len, bytes, 0, &got, file->path, err);
    fd_close(&fd);
    out->len += got;
    out->at[out->len] = 0;
    return ok;
}

static bool put_question(struct hub_upload *u, size_t first, struct strbuf *body, struct err *err)
{
    struct json_writer w = {.buf = body};
    struct strbuf sample = {0}, text = {0};
    bool ok = true;

    json_write_begin_object(&w);
    json_write_key(&w, "files");
    json_write_begin_array(&w);
    for (size_t i = first; ok && i < u->file_count && i < first + ASKED_MAX; i++) {
        strbuf_clear(&sample);
        strbuf_clear(&text);
        ok = read_part(&u->files[i], SAMPLE_BYTES, &sample, err);
        base64_encode(sample.at, sample.len, &text);
        json_write_begin_object(&w);
        json_put_text(&w, "path", u->files[i].path);
        json_put_str(&w, "sample", strbuf_view(&text));
        json_put_integer(&w, "size", (int64_t)u->files[i].bytes);
        json_write_end_object(&w);
    }
    json_write_end_array(&w);
    json_write_end_object(&w);
    strbuf_deinit(&sample);
    strbuf_deinit(&text);
    return ok;
}

static bool take_modes(struct hub_upload *u, size_t first, const struct json *answer, struct err *err)
{
    for (size_t i = first; i < u->file_count && i < first + ASKED_MAX; i++) {
        struct str mode = STR_NONE;

        json_each(said, json_get(answer, "files"))
            if (json_is(json_get(said, "path"), u->files[i].path))
                mode = json_string_or(json_get(said, "uploadMode"), STR_NONE);
        if (!str_is(mode, "lfs") && !str_is(mode, "regular"))
            return hub_wire_is_strange(u->wire, err);
        u->files[i].is_large = str_is(mode, "lfs") && u->files[i].bytes > 0; /* stores take no empty file */
    }
    return true;
}

static bool ask_modes(struct hub_upload *u, struct err *err)
{
    const char *url = arena_printf(u->wire->arena, "/api/models/%s/preupload/main", u->repo);
    bool ok = true;

    for (size_t first = 0; ok && first < u->file_count; first += ASKED_MAX) {
        struct strbuf body = {0};
        const struct json *answer = NULL;

        ok = put_question(u, first, &body, err) && (answer = hub_wire_post(u->wire, url, &body, err)) &&
             take_modes(u, first, answer, err);
        strbuf_deinit(&body);
    }
    return ok;
}

/* --- the commit --- */

struct commit {
    struct strbuf text; /* a line of JSON for each thing that it does */
    uint64_t regular_bytes;
    size_t change_count;
};

static void begin_line(struct json_writer *w, struct commit *commit, const char *key)
{
    *w = (struct json_writer){.buf = &commit->text};
    json_write_begin_object(w);
    json_put_text(w, "key", key);
    json_write_key(w, "value");
    json_write_begin_object(w);
}

static void end_line(struct json_writer *w, struct commit *commit)
{
    json_write_end_object(w);
    json_write_end_object(w);
    strbuf_add_char(&commit->text, '\n');
}

static void put_head(struct hub_upload *u, struct commit *commit, const char *head)
{
    struct json_writer w;

    begin_line(&w, commit, "header");
    json_put_text(&w, "summary", u->summary);
    json_put_text(&w, "description", "");
    json_put_text(&w, "parentCommit", head);
    end_line(&w, commit);
}

static void put_large(struct commit *commit, struct hub_outgoing *file, const struct hub_listing *tree)
{
    struct json_writer w;

    file->is_there = has(tree, file, file->sha256);
    if (file->is_there)
        return;
    begin_line(&w, commit, "lfsFile");
    json_put_text(&w, "path", file->path);
    json_put_text(&w, "algo", "sha256");
    json_put_text(&w, "oid", file->sha256);
    json_put_integer(&w, "size", (int64_t)file->bytes);
    end_line(&w, commit);
    commit->change_count++;
}

static bool put_regular(struct commit *commit, struct hub_outgoing *file, const struct hub_listing *tree,
                        struct err *err)
{
    struct strbuf content = {0}, text = {0};
    struct json_writer w;
    char oid[41];
    bool ok = (commit->regular_bytes += file->bytes) <= REGULAR_BYTES_MAX;

    if (!ok)
        return err_set(err, ERR_LIMIT, "the Hub takes %s and others as text, which is too much for a commit",
                       file->path);
    ok = read_part(file, (size_t)file->bytes, &content, err);
    git_blob_hex(strbuf_view(&content), oid);
    file->is_there = has(tree, file, oid);
    if (ok && !file->is_there) {
        base64_encode(content.at, content.len, &text);
        begin_line(&w, commit, "file");
        json_put_str(&w, "content", strbuf_view(&text));
        json_put_text(&w, "path", file->path);
        json_put_text(&w, "encoding", "base64");
        end_line(&w, commit);
        commit->change_count++;
    }
    strbuf_deinit(&content);
    strbuf_deinit(&text);
    return ok;
}

static bool is_of_upload(const struct hub_upload *u, const char *path)
{
    for (size_t i = 0; i < u->file_count; i++)
        if (strcmp(path, u->files[i].path) == 0)
            return true;
    return false;
}

static bool is_weight(const char *path)
{
    return strcmp(path, "adapter_model.safetensors") == 0 || strcmp(path, "adapter_config.json") == 0 ||
           strcmp(path, "model.safetensors.index.json") == 0 ||
           (!strchr(path, '/') && str_starts(str_of(path), STR("model")) &&
            str_ends(str_of(path), STR(".safetensors")));
}

/* Weights of an earlier export would be loaded beside these or in their place. */
static void put_removals(struct hub_upload *u, struct commit *commit, const struct hub_listing *tree)
{
    struct json_writer w;

    for (size_t i = 0; i < tree->count; i++) {
        if (!is_weight(tree->at[i].path) || is_of_upload(u, tree->at[i].path))
            continue;
        begin_line(&w, commit, "deletedFile");
        json_put_text(&w, "path", tree->at[i].path);
        end_line(&w, commit);
        commit->change_count++;
    }
}

static bool prepare(struct hub_upload *u, const char *head, struct commit *commit, struct err *err)
{
    struct hub_listing tree = {0};

    if (!ask_modes(u, err) || !read_tree(u, head, &tree, err))
        return false;
    put_head(u, commit, head);
    for (size_t i = 0; i < u->file_count; i++)
        if (u->files[i].is_large)
            put_large(commit, &u->files[i], &tree);
        else if (!put_regular(commit, &u->files[i], &tree, err))
            return false;
    put_removals(u, commit, &tree);
    return true;
}

static bool send_commit(struct hub_upload *u, const struct commit *commit, struct err *err)
{
    const char *url = arena_printf(u->wire->arena, "/api/models/%s/commit/main", u->repo);
    struct http_client_request request = {.method = "POST",
                                          .url = url,
                                          .body = strbuf_view(&commit->text),
                                          .content_type = "application/x-ndjson"};
    const struct json *answer = hub_wire_ask(u->wire, &request, err);

    if (!answer && err->code == ERR_CONFLICT)
        return err_set(err, ERR_IO, "%s has a commit of somebody else since this one was made ready", u->repo);
    u->commit = answer ? hub_wire_text(u->wire, answer, "commitOid") : NULL;
    u->is_new = u->commit != NULL;
    return answer && (u->commit || hub_wire_is_strange(u->wire, err));
}

bool hub_upload(struct hub_upload *u, struct err *err)
{
    struct commit commit = {0};
    const char *head = NULL;
    bool ok = find_head(u, &head, err) && prepare(u, head, &commit, err);

    for (size_t i = 0; ok && i < u->file_count; i++)
        if (u->files[i].is_large && !u->files[i].is_there)
            ok = hub_lfs_send(u, &u->files[i], err) || err_prefix(err, "%s", u->files[i].path);
    if (ok && commit.change_count > 0)
        ok = send_commit(u, &commit, err);
    else
        u->commit = ok ? head : NULL;
    strbuf_deinit(&commit.text);
    return ok;
}
