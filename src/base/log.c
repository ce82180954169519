#include "base/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { LINE_BYTES_MAX = 2048, HEX_KEY_LEN = 40 };

/* A token is its prefix and at least so many characters of tokens behind it. */
static const struct shape {
    const char *prefix;
    size_t body_min;
} shapes[] = {
    {"at_", 30},   {"hf_", 16},    {"sk-", 16},         {"sk_", 16},    {"wandb_v1_", 16}, {"ghp_", 20},
    {"gho_", 20},  {"ghs_", 20},   {"github_pat_", 20}, {"eyJ", 20},    {"whsec_", 16},    {"AKIA", 16},
    {"xoxb-", 10}, {"glpat-", 16}, {"Bearer ", 6},      {"bearer ", 6}, {"Basic ", 6},     {"basic ", 6},
};

static bool is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static bool is_token_char(char c)
{
    return is_alnum(c) || (c && strchr("_-.~+/=", c));
}

static size_t span(const char *text, bool (*is_of)(char c))
{
    size_t len = 0;

    while (is_of(text[len]))
        len++;
    return len;
}

static bool is_lower_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

/* user:password of a URL, when it is no shorter than what stands for it. */
static size_t userinfo_len(const char *text)
{
    size_t at = strcspn(text, "@/?# \t\"'");

    return text[at] == '@' && at >= 3 && memchr(text, ':', at) ? at : 0;
}

/* Length of what must not be seen at the beginning of the text; 0: nothing. */
static size_t token_len(const char *text)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const size_t prefix_len = strlen(shapes[i].prefix);

        if (strncmp(text, shapes[i].prefix, prefix_len) == 0) {
            size_t len = span(text + prefix_len, is_token_char);
            return len >= shapes[i].body_min ? prefix_len + len : 0;
        }
    }
    return span(text, is_lower_hex) == HEX_KEY_LEN && !is_alnum(text[HEX_KEY_LEN]) ? HEX_KEY_LEN : 0;
}

void log_redact(char *text)
{
    const char *in = text;
    char *out = text, before = ' ';

    while (*in) {
        const bool is_url = strncmp(in, "://", 3) == 0;
        size_t len = is_alnum(before) || before == '_' ? 0 : token_len(in);

        if (is_url) {
            memmove(out, in, 3);
            out += 3;
            in += 3;
            len = userinfo_len(in);
        }
        if (len) {
            memcpy(out, "***", 3);
            out += 3;
            in += len;
        } else if (!is_url) {
            *out++ = *in++;
        }
        before = in[-1];
    }
    *out = 0;
}

void log_line(const char *format, ...)
{
    char line[LINE_BYTES_MAX + 1];
    va_list args;
    size_t len;

    va_start(args, format);
    vsnprintf(line, LINE_BYTES_MAX, format, args);
    va_end(args);
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = ' ';
    log_redact(line);
    len = strlen(line);
    line[len] = '\n';
    fwrite(line, 1, len + 1, stderr);
}
