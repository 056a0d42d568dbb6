# The event ispmail/credentials/changed, where somebody else changes the password, or a
# beacon that found a login refused: every mail server re-applies from fresh pillar.
# Nothing of the event is used: whoever sends it, this is all that it can cause.
Every mail server applies what pillar has now:
  runner.ispmail.reapply: []
