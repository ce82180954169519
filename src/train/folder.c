#include "train/folder.h"
#include "base/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { MANIFEST_FORMAT = 1, MANIFEST_BYTES_MAX = 4 << 20, SMALL_BYTES = 4 << 20 };

static bool has_room(const char *folder, uint64_t bytes, struct err *err)
{
    uint64_t room, wanted = bytes + bytes / 10 + SMALL_BYTES;

    if (!disk_free(folder, &room, err))
        return false;
    return wanted <= room || err_set(err, ERR_NO_SPACE, "the disk has no room: %llu MiB are needed, %llu MiB are free",
                                     (unsigned long long)(wanted >> 20) + 1, (unsigned long long)(room >> 20));
}

bool folder_begin(struct arena *arena, const char *path, uint64_t bytes, const char **temporary, struct err *err)
{
    *temporary = arena_printf(arena, "%s.tmp", path);
    if (!dir_remove(*temporary, err) || !dir_make(*temporary, err))
        return false;
    if (has_room(*temporary, bytes, err))
        return true;
    folder_abort(*temporary);
    return false;
}

void folder_abort(const char *temporary)
{
    dir_remove(temporary, NULL);
}

void folder_put_files(struct json_writer *w, const struct checkpoint_files *files)
{
    json_write_key(w, "files");
    json_write_begin_array(w);
    for (int i = 0; i < files->count; i++) {
        json_write_begin_object(w);
        json_put_text(w, "name", files->file[i].name);
        json_put_integer(w, "bytes", (int64_t)files->file[i].bytes);
        json_put_text(w, "sha256", files->file[i].sha256);
        json_write_end_object(w);
    }
    json_write_end_array(w);
}

static void write_manifest(struct json_writer *w, const struct folder_label *label,
                           const struct checkpoint_files *files)
{
    json_write_begin_object(w);
    json_put_integer(w, "format", MANIFEST_FORMAT);
    json_put_text(w, "job", label->job);
    json_put_integer(w, "attempt", label->attempt);
    json_put_integer(w, "step", label->step);
    json_put_text(w, "kind", label->kind);
    folder_put_files(w, files);
    json_write_end_object(w);
    strbuf_add_char(w->buf, '\n');
}

bool folder_commit(const char *temporary, const char *path, const struct folder_label *label,
                   const struct checkpoint_files *files, struct err *err)
{
    struct arena arena = {0};
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text, .indent = 1};
    bool ok;

    write_manifest(&w, label, files);
    ok = file_replace(path_join(&arena, temporary, "MANIFEST"), strbuf_view(&text), err) && dir_sync(temporary, err) &&
         file_rename(temporary, path, err);
    strbuf_deinit(&text);
    arena_deinit(&arena);
    return ok;
}

static bool verify_file(struct arena *arena, const char *folder, const struct json *file, struct err *err)
{
    struct str name = json_string_or(json_get(file, "name"), STR(""));
    const char *path;
    uint64_t bytes;
    char hex[65];

    if (name.len == 0 || str_find(name, STR("/"), 0) >= 0)
        return err_set(err, ERR_INPUT, "%s: MANIFEST names no file", folder);
    path = path_join(arena, folder, str_copy(arena, name));
    if (!file_sha256(path, &bytes, hex, NULL, NULL, err))
        return false;
    if ((int64_t)bytes != json_integer_or(json_get(file, "bytes"), -1) ||
        !json_is(json_get(file, "sha256"), hex))
        return err_set(err, ERR_INPUT, "%s is not what MANIFEST says", path);
    return true;
}

bool folder_verify(const char *path, struct err *err)
{
    struct arena arena = {0};
    const struct json *root, *files;
    struct str text;
    bool ok = false;

    if (!file_read(&arena, path_join(&arena, path, "MANIFEST"), MANIFEST_BYTES_MAX, &text, err))
        goto out;
    root = json_parse(&arena, text, NULL, err);
    if (!root)
        goto out;
    files = json_get(root, "files");
    if (json_integer_or(json_get(root, "format"), 0) != MANIFEST_FORMAT || !json_has_type(files, JSON_ARRAY) ||
        files->count == 0) {
        err_set(err, ERR_INPUT, "%s: MANIFEST is not of format %d", path, MANIFEST_FORMAT);
        goto out;
    }
    ok = true;
    json_each(file, files)
        ok = ok && verify_file(&arena, path, file, err);
out:
    arena_deinit(&arena);
    return ok;
}

bool folder_add_file(struct arena *arena, const char *temporary, const char *name, struct str content,
                     struct checkpoint_files *files, struct err *err)
{
    struct checkpoint_file *file = &files->file[files->count];

    if (!file_replace(path_join(arena, temporary, name), content, err))
        return false;
    *file = (struct checkpoint_file){.name = name, .bytes = content.len};
    sha256_hex(content, file->sha256);
    files->count++;
    return true;
}

char *folder_step_name(struct arena *arena, int64_t step)
{
    return arena_printf(arena, "step-%08" PRId64, step);
}

bool folder_step_parse(const char *name, int64_t *step)
{
    struct str text = str_of(name);

    return str_starts(text, STR("step-")) && text.len >= 13 && str_to_i64(str_slice(text, 5, text.len), step) &&
           *step >= 0;
}
