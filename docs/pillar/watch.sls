# Each mail server checks every 10 seconds whether the database refuses its login, and then sends an event.
beacons:
  postfix_credential:
    - interval: 10
    - disable_during_state_run: true
