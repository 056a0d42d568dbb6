# Each mail server checks every 10 seconds whether the database refuses its login, and then sends an event.
beacons:
  postfix_credential:
    - interval: 10
    - disable_during_state_run: true
# Every ten minutes it looks for all that is wrong, and sends the event ispmail/doctor/fault where that has changed. If
# pillar has ispmail:watch:textfile, it writes metrics for Prometheus too.
schedule:
  postfix_doctor:
    function: postfix_doctor.check
    kwargs: {notify: true}
    minutes: 10
    splay: 120            # not all servers in the same second
    maxrunning: 1
    return_job: false     # the master's job cache needs no copy
