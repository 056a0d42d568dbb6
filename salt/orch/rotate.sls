# A password rotation that loses no lookup: `salt-run state.orchestrate orch.rotate`, once
# pillar has the new password. Each step needs the one before it; where one fails the old
# password stays valid everywhere, and running it again goes on from there.
#
# ispmail:rotation in the master's configuration, or in the master's own pillar, says who is who.
{%- set rotation = salt['config.get']('ispmail:rotation') %}
{%- set kind = rotation.get('tgt_type', 'glob') %}
{#- A number waits for a run that is under way; True only notes the job on 3008, and False fails. #}
{%- set queue = 100 %}

The new password is accepted next to the old one:
  salt.state:
    - tgt: {{ rotation['database'] | json }}
    - tgt_type: {{ kind }}
    - sls: ispmail.credential_accepted
    - queue: {{ queue }}

One server goes first with the new password:
  salt.state:
    - tgt: {{ rotation['canary'] | json }}
    - tgt_type: {{ kind }}
    - sls: ispmail.drained
    - queue: {{ queue }}
    - require:
      - salt: The new password is accepted next to the old one

All servers follow with the new password:
  salt.state:
    - tgt: {{ rotation['mail'] | json }}
    - tgt_type: {{ kind }}
    - batch: {{ rotation.get('batch', '25%') | json }}
    - sls: ispmail.drained
    - queue: {{ queue }}
    - require:
      - salt: One server goes first with the new password

Every server is seen to use the new password:
  salt.runner:
    - name: ispmail.prove
    - require:
      - salt: All servers follow with the new password

The old password is dropped:
  salt.state:
    - tgt: {{ rotation['database'] | json }}
    - tgt_type: {{ kind }}
    - sls: ispmail.credential_sole
    - queue: {{ queue }}
    - require:
      - salt: Every server is seen to use the new password
