# Mail servers notice by themselves when the database refuses their login.
beacons:
  postfix_credential:
    - interval: 10
    - disable_during_state_run: true
