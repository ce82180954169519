/* fault.h - system calls that fail, or in which the process dies, at a chosen place.
 *
 * fault.c defines the calls of libc that can fail (files, folders, pipes, fork) over the kernel's own, so what is
 * linked with it or runs under it as LD_PRELOAD, SQLite included, calls those. Nothing of it is in the shipped binary,
 * which runs under it as it is.
 *
 * A rule says which of the calls that match is the one, and what happens there. As text, of which FAULT_RULES takes
 * several, each ending in a semicolon:
 *
 *     call=write,pwrite path=*.tmp nth=3 do=ENOSPC
 *     call=rename path=*MANIFEST program=train do=stop mark=/tmp/here
 *
 *   call     names of calls, or "any"; "memory" for malloc and its kin (LD_PRELOAD alone)
 *   path     pattern of fnmatch for the path of the file; of a rename or link, the new one
 *   data     the bytes written begin with this
 *   program  the first argument of the command line: a preloaded library is in the children, too
 *   nth      which of the calls that match, from 1; "nth=3+": this one and all behind it
 *   do       an errno's name; "short": half of what is to be written; "skip": success without the call; "kill", "stop":
 *            the process ends, or waits for SIGCONT; "count": nothing, but a program that exits writes their number
 *            into the mark
 *   when     "after": the call is made first
 *   mark     a file that is made when the rule is applied, which the process that made it alone does */
#pragma once

#include <stdbool.h>

/* One rule, which replaces those before; NULL: none. Aborts when it cannot be understood. */
void fault_set(const char *rule);
/* How many calls have matched it. */
unsigned long fault_count(void);
/* Whether it was applied. */
bool fault_has_fired(void);
