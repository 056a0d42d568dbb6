# On the database server: create the database, the tables with their indexes, and the account that may read them. The
# minion logs in as the database's admin, see ispmail:server in pillar.example.
{%- from 'ispmail/types.jinja' import needs_pymysql with context %}
{%- set ispmail = salt['pillar.get']('ispmail') or {} %}
{%- set system_python = grains['pythonexecutable'].startswith('/usr/bin/') %}
include:
  - ispmail.modules
{%- if ispmail is mapping and ispmail.get('packages', True) and needs_pymysql %}
{%- if system_python %}

Salt can ask the database server:
  pkg.installed:
    - name: python3-pymysql
    - reload_modules: True
    - require_in:
      - postfix_database: The database has the tables that the maps ask
{%- else %}
{%- set found = [] %}
{%- for path in grains['pythonpath'] if salt['file.directory_exists'](path ~ '/pymysql') %}
{%- do found.append(path) %}
{%- endfor %}
{%- if not found %}

Salt can ask the database server:
  pip.installed:
    - name: PyMySQL>=1.1,<1.3
    - bin_env: {{ grains['pythonexecutable'] | json }}
    - reload_modules: True
    - require_in:
      - postfix_database: The database has the tables that the maps ask
{%- endif %}
{%- endif %}
{%- endif %}

The database has the tables that the maps ask:
  postfix_database.tables

The account of the maps may read the tables:
  postfix_database.account:
    - require:
      - postfix_database: The database has the tables that the maps ask
