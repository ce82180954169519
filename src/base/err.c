#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A text that did not fit ends with a whole character: it goes into JSON. */
static void end_at_character(char *text)
{
    size_t len = strlen(text), lead = len;
    unsigned char first;

    while (lead > 0 && ((unsigned char)text[lead - 1] & 0xc0) == 0x80)
        lead--;
    if (lead == 0)
        return;
    first = (unsigned char)text[--lead];
    if (len - lead < (first >= 0xf0 ? 4u : first >= 0xe0 ? 3u : first >= 0xc0 ? 2u : 1u))
        text[lead] = 0;
}

bool err_set(struct err *err, enum err_code code, const char *format, ...)
{
    va_list args;

    if (!err)
        return false;
    err->code = code;
    va_start(args, format);
    if (vsnprintf(err->text, sizeof err->text, format, args) >= (int)sizeof err->text)
        end_at_character(err->text);
    va_end(args);
    return false;
}

bool err_prefix(struct err *err, const char *format, ...)
{
    char old[sizeof err->text];
    va_list args;
    int used;

    if (!err)
        return false;
    memcpy(old, err->text, sizeof old);
    va_start(args, format);
    used = vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    if (used >= 0 && (size_t)used < sizeof err->text - 1)
        snprintf(err->text + used, sizeof err->text - (size_t)used, ": %s", old);
    end_at_character(err->text);
    return false;
}

const char *err_code_name(enum err_code code)
{
    static const char *const names[] = {
#define ERROR_NAME(name, text) text,
        ERROR_CODES(ERROR_NAME)
#undef ERROR_NAME
    };
    return (size_t)code < sizeof names / sizeof *names ? names[code] : "internal_error";
}

bool err_code_find(const char *name, enum err_code *code)
{
    for (int i = 0; i <= ERR_INTERNAL; i++) {
        if (strcmp(err_code_name(i), name) == 0) {
            *code = i;
            return true;
        }
    }
    return false;
}

void assert_failed(const char *file, int line, const char *condition)
{
    fprintf(stderr, "attune: %s:%d: broken invariant: %s\n", file, line, condition);
    abort();
}

void die(const char *format, ...)
{
    va_list args;

    fputs("attune: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    /* Not exit: what runs then takes for granted that no other thread works on. */
    _exit(1);
}
