/* base/err.h - how a failure travels.
 *
 * A function that can fail returns bool (or a pointer) and takes `struct err *` last. The innermost
 * function writes the message, once: what was attempted, on what, and what to do next. Callers may put
 * a place in front with err_prefix and otherwise pass it on through `goto out`.
 *
 * The text is shown to users: it never holds a secret nor another tenant's id. */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#define ERROR_CODES(X)                                                                                                 \
    X(OK, "ok")                                                                                                        \
    X(INPUT, "invalid_input")            /* bytes or arguments from outside are wrong */                               \
    X(NOT_FOUND, "not_found")            /* the named thing does not exist */                                          \
    X(CONFLICT, "conflict")              /* the state does not allow it, or somebody else was first */                 \
    X(UNSUPPORTED, "unsupported")        /* valid, but not something that attune does */                               \
    X(LIMIT, "limit_exceeded")           /* a stated bound is passed */                                                \
    X(IO, "io_error")                    /* the operating system said no */                                            \
    X(NO_SPACE, "no_space")              /* disk or memory does not suffice */                                         \
    X(QUOTA, "quota_exceeded")           /* the project may have no more of it */                                      \
    X(TIMEOUT, "timeout")                                                                                              \
    X(CANCELLED, "cancelled")                                                                                          \
    X(AUTH, "unauthorized")                                                                                            \
    X(DIVERGED, "training_diverged")     /* a loss or gradient is not a finite number */                               \
    X(INTERNAL, "internal_error")        /* a bug of ours */

enum err_code {
#define ERROR_ENUM(name, text) ERR_##name,
    ERROR_CODES(ERROR_ENUM)
#undef ERROR_ENUM
};

struct err {
    enum err_code code;
    char text[1024];
};

/* Writes the message and returns false, so that `return err_set(err, ERR_INPUT, "…")` reads as one step.
 * err may be NULL when the caller does not care. */
bool err_set(struct err *err, enum err_code code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " in front of the message that is there; returns false. */
bool err_prefix(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The stable lower-case name of a code, as it stands in job errors: "invalid_input". */
const char *err_code_name(enum err_code code);
bool err_code_find(const char *name, enum err_code *code);

/* Ends the process with file, line and condition: a broken invariant is a bug, in release builds too. */
#define ASSERT(condition)                                                                                              \
    do {                                                                                                               \
        if (__builtin_expect(!(condition), 0))                                                                         \
            assert_failed(__FILE__, __LINE__, #condition);                                                             \
    } while (0)
_Noreturn void assert_failed(const char *file, int line, const char *condition);

/* Ends the process with one line on stderr: for lack of memory and for command lines that cannot go on. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
