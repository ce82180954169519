#include "hub/name.h"

#include <string.h>

enum { REPO_PART_BYTES_MAX = 96, REVISION_BYTES_MAX = 255, PATH_BYTES_MAX = 1024, PATH_DEPTH_MAX = 16 };

static bool is_alphanumeric(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static bool is_made_of(struct str text, const char *others)
{
    for (size_t i = 0; i < text.len; i++)
        if (!is_alphanumeric(text.at[i]) && (!text.at[i] || !strchr(others, text.at[i])))
            return false;
    return true;
}

static bool is_repo_part(struct str text)
{
    return text.len > 0 && text.len <= REPO_PART_BYTES_MAX && is_made_of(text, "-_.") && !strchr("-.", text.at[0]) &&
           !strchr("-.", text.at[text.len - 1]);
}

bool hub_name_is_repo(struct str text)
{
    ptrdiff_t slash = str_find(text, STR("/"), 0);

    if (str_find(text, STR("--"), 0) >= 0 || str_find(text, STR(".."), 0) >= 0)
        return false;
    return (slash < 0 || is_repo_part(str_slice(text, 0, (size_t)slash))) &&
           is_repo_part(str_slice(text, (size_t)(slash + 1), text.len));
}

/* Segments apart by slashes: how many, 0 when one is empty or begins with a dot. */
static int count_segments(struct str text)
{
    bool at_start = true;
    int count = 1;

    for (size_t i = 0; i < text.len; i++) {
        if (at_start && (text.at[i] == '/' || text.at[i] == '.'))
            return 0;
        at_start = text.at[i] == '/';
        count += at_start;
    }
    return at_start ? 0 : count;
}

bool hub_name_is_revision(struct str text)
{
    return text.len <= REVISION_BYTES_MAX && is_made_of(text, "-_.+/") && count_segments(text) > 0;
}

static bool is_hex(struct str text, size_t len)
{
    for (size_t i = 0; i < text.len; i++)
        if (hex_value(text.at[i]) < 0 || (text.at[i] >= 'A' && text.at[i] <= 'F'))
            return false;
    return text.len == len;
}

bool hub_name_is_commit(struct str text)
{
    return is_hex(text, 40);
}

bool hub_name_is_sha256(struct str text)
{
    return is_hex(text, 64);
}

bool hub_name_is_path(struct str text)
{
    int segments = count_segments(text);

    for (size_t i = 0; i < text.len; i++)
        if ((unsigned char)text.at[i] < 0x20 || text.at[i] == 0x7f || text.at[i] == '\\')
            return false;
    return text.len <= PATH_BYTES_MAX && segments > 0 && segments <= PATH_DEPTH_MAX;
}

char *hub_name_folder(struct arena *arena, const char *repo)
{
    const char *slash = strchr(repo, '/');

    return slash ? arena_printf(arena, "models--%.*s--%s", (int)(slash - repo), repo, slash + 1)
                 : arena_printf(arena, "models--%s", repo);
}

char *hub_name_encode(struct arena *arena, struct str text, bool keeps_slashes)
{
    static const char digits[] = "0123456789ABCDEF";
    char *out = arena_alloc(arena, 3 * text.len + 1), *to = out;

    for (size_t i = 0; i < text.len; i++) {
        const unsigned char c = (unsigned char)text.at[i];

        if (is_alphanumeric((char)c) || (c && strchr("-_.~", c)) || (c == '/' && keeps_slashes)) {
            *to++ = (char)c;
        } else {
            *to++ = '%';
            *to++ = digits[c >> 4];
            *to++ = digits[c & 15];
        }
    }
    *to = 0;
    return out;
}
