# The other programs that log in with the maps' account get pillar's password: after the maps, the SLS that `consumers`
# names are applied, then all consumers are checked. Option files are written together with the table files, in
# ispmail.maps. One of this formula's own among them is told by that state: it could not be rendered here.
{%- set yours = '(?!ispmail([./]|\\Z))[A-Za-z0-9_-][A-Za-z0-9_./-]*\\Z' %}
{%- set names = [] %}
{%- set keys = [] %}
{%- for key in ['ispmail', salt['pillar.get']('ispmail:instances')] | flatten | select('string') | select('match', '[A-Za-z0-9_.-]+\\Z') | list | unique %}
{%- set consumers = salt['pillar.get'](key ~ ':consumers') or {} %}
{%- if consumers is mapping and consumers %}
{%- do keys.append(key) %}
{%- for consumer in consumers.values() if consumer is mapping and consumer.get('sls') is string and consumer['sls'] is match(yours) %}
{%- do names.append(consumer['sls']) %}
{%- endfor %}
{%- endif %}
{%- endfor %}
include:
  - ispmail.maps
{%- for name in names | unique %}
  - {{ name | json }}
{%- endfor %}
{%- for key in keys %}
{%- set instance = '' if key == 'ispmail' else ' in ' ~ key %}

The other programs use the password of the maps{{ instance }}:
  postfix_map.consumers:
    - pillar: {{ key | json }}
    - require:
      - postfix_map: Postfix asks the maps that pillar names{{ instance }}
{%- for name in names | unique %}
      - sls: {{ name | json }}
{%- endfor %}
{%- endfor %}
{%- if names %}

extend:
  Postfix asks the maps that pillar names:
    postfix_map:
      - require_in:
{%- for name in names | unique %}
        - sls: {{ name | json }}
{%- endfor %}
{%- endif %}
