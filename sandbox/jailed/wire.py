"""The protocol between the host and the jail: frames, messages and exit codes. Standard library only.

A session has four connections to the host:

* the *supervision* channel, between the host and the session's init (PID 1, which the user's code cannot reach): one byte of kind
  per datagram. It is the only source of statuses such as "killed by signal 11".
* the *cell* channel, a byte stream between the host and the interpreter. Code in the jail can find it and write to it, so nothing
  read from it is trusted: frames are bounded, images are bare pixels whose number must fit their size, so that the host parses no
  image format, and DONE must carry the token of the current run.
* standard output and standard error: two pipes, read as untrusted bytes.
"""

from __future__ import annotations

import struct

# Control channels, host to zygote and host to slot: one byte, with descriptors. A new process answers HELLO on the first of them.
SLOT = b"N"  # fork a slot; one descriptor: its control channel
SESSION = b"S"  # fork a session; SESSION_FDS descriptors: supervision, cell, standard output, standard error
SESSION_FDS = 4

# Supervision channel, jail to host.
HELLO = b"H"  # built; the datagram's credentials tell the host the sender's process id
FAILED = b"E"  # + text: the session could not be built
INTERRUPTED = b"A"  # the interrupt has been sent
DIED = b"D"  # + EXIT: the interpreter is gone
# Supervision channel, host to jail.
INTERRUPT = b"I"  # interrupt the run

EXIT = struct.Struct("<i")  # a wait status as os.waitpid gives it

# Cell channel: HEADER, then that many bytes.
HEADER = struct.Struct("<cI")
TOKEN_BYTES = 16
RUN = b"R"  # host to jail: token, CELL, source in UTF-8 (lone surrogates pass)
IMAGES = b"I"  # host to jail: PIXELS for each image; the pixels are in a sealed memory file sent along
READY = b"Y"  # jail to host: the interpreter waits for its first run
IMAGE = b"P"  # jail to host: PIXELS, then the pixels
DONE = b"D"  # jail to host: token, OUTCOME

CELL = struct.Struct("<I")
PIXELS = struct.Struct("<4sII")  # PIL mode, width, height
MODES = ("L", "RGB", "RGBA")  # a byte per band; other modes are converted before they are sent

# The last byte of DONE.
OUTCOME_OK = b"o"
OUTCOME_EXCEPTION = b"e"
OUTCOME_MEMORY = b"m"
OUTCOME_INTERRUPTED = b"i"
