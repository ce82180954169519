/* base/log.h - lines for whoever runs the service: stderr, which is systemd's journal.
 *
 * One call is one line: control characters within it become spaces, so that no text of a tenant looks like a line of
 * ours. What has the shape of a token becomes ***: no text that holds one should ever get here, and this is the last
 * place where it can be stopped. */
#pragma once

#include <stddef.h>

void log_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* In place: API keys of attune, OpenAI, Hugging Face, Weights & Biases (40 hexadecimal digits, too), GitHub, JSON web
 * tokens, webhook secrets, credentials of Authorization headers and of URLs. */
void log_redact(char *text);
