"""What pytest has captured of a checkpoint's output, put into a capture of each run's own.

Streams are the one thing that no two runs share: a checkpoint's capture is ended before it parks,
and a worker begins another one.
"""

import gc
import sys
import weakref

from pyseidon import barriers


class Captured:
    """What was captured while conftests were loaded, and who kept a captured stream."""

    def __init__(self, manager, texts, handlers, is_active):
        self.manager = manager
        self.texts = texts
        self.handlers = handlers
        self.is_active = is_active

    @classmethod
    def release(cls, config, is_active):
        """Ends pytest's capture of this process, which is active, or over and suspended. Returns
        what `resume` is called on, and why no capture of another process can take its place, or
        None."""
        manager = config.pluginmanager.getplugin("capturemanager")
        capturing = manager and manager._global_capturing
        if capturing is None:
            return cls(None, (), (), is_active), None
        streams = [(name, stream_of(getattr(capturing, key))) for name, key in STREAMS]
        if any(stream is not None and stream.closed for _, stream in streams):
            return None, "a conftest has closed a stream that output is captured in"
        texts = manager.read_global_capture()
        settings = [barriers.settings_of(stream) for _, stream in streams]
        handlers = []
        for reference in sys.modules["logging"]._handlerList:
            handler = reference()
            for name, stream in streams:
                if handler is not None and vars(handler).get("stream") is stream is not None:
                    handlers.append((handler, name))
                    handler.stream = None
        manager.stop_global_capturing()
        objects = [(name, o) for name, s in streams for o in (s, getattr(s, "buffer", None))]
        kept = [(name, weakref.ref(o)) for name, o in objects if o is not None]
        del capturing, streams, objects
        stream = handler = reference = None
        gc.collect()
        for name, reference in kept:
            if reference() is not None:
                return None, f"a conftest keeps `sys.{name}`, which is another object in each run"
        manager.start_global_capturing()
        capturing = manager._global_capturing
        fresh = [barriers.settings_of(stream_of(getattr(capturing, key))) for _, key in STREAMS]
        manager.stop_global_capturing()
        if settings != fresh:
            return None, "a conftest changes the settings of a standard stream"
        return cls(manager, tuple(texts), handlers, is_active), None

    def printed(self):
        """What was captured, in words, or None."""
        text = "".join(filter(None, self.texts))
        return f"it prints {text[:200].strip()!r}" if text else None

    def and_then(self, other):
        """With the handlers of another, which has captured nothing."""
        return Captured(self.manager, self.texts, [*self.handlers, *other.handlers], self.is_active)

    def resume(self):
        """Begins a capture as pytest would have, and fills it as conftests would have."""
        if self.manager is None:
            return
        self.manager.start_global_capturing()
        capturing = self.manager._global_capturing
        for text, capture in zip(self.texts, (capturing.out, capturing.err)):
            if text:
                capture.tmpfile.write(text)
        for handler, name in self.handlers:
            handler.stream = getattr(sys, name)
        if not self.is_active:
            self.manager.suspend_global_capture()


STREAMS = (("stdin", "in_"), ("stdout", "out"), ("stderr", "err"))


def stream_of(capture):
    """What a capture puts in the place of one of `sys`'s streams."""
    if capture is None:
        return None
    return getattr(capture, "syscapture", capture).tmpfile
