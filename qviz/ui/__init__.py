"""The Streamlit app. Nothing outside this folder, app.py and pages/ imports streamlit."""
